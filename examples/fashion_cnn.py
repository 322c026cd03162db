"""Train a CNN on Fashion-MNIST with two workers, and test it on the 10,000 pictures that are kept for that.

    apt-get install dataset-fashion-mnist
    python examples/fashion_cnn.py [ROWS]

The package has the original files: 60,000 pictures of clothes to learn from, in ten classes. They are written once as shards;
two workers average their gradients at each step, and the learning rate falls to zero over the steps. With all rows it takes a
few minutes on two cores, and must be right in at least 88 % of the test; ROWS takes fewer, and asks for nothing.
"""

import gzip
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

import sparkgap as gap

FOLDER = Path("/usr/share/datasets/fashion-mnist")
EPOCHS, BATCH = 4, 128


def pictures(part: str) -> pa.Table:
    """Read the files of a part: after 16 bytes of head, a byte a pixel; after 8 bytes, a byte a label.

    Spark has no unsigned bytes: pixels are shifted to -128 to 127.
    """
    if not FOLDER.exists():
        sys.exit(f"{FOLDER} is not there. Install the Debian package: apt-get install dataset-fashion-mnist")
    images, labels = (
        np.frombuffer(gzip.open(FOLDER / f"{part}-{kind}.gz").read(), "u1")[head:]
        for kind, head in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    pixels = pa.FixedSizeListArray.from_arrays(pa.array((images ^ 128).view("i1")), 784)
    return pa.table({"pixels": pixels, "label": pa.array(labels.astype("i4"))})


def network():
    import torch
    from torch import nn

    class Scaled(nn.Module):
        """From bytes to numbers around zero, as a picture of one channel."""

        def forward(self, pixels):
            return ((pixels.float() + 128) / 255 - 0.286).div(0.353).unflatten(1, (1, 28, 28))

    torch.manual_seed(0)
    return nn.Sequential(
        Scaled(),
        nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48 * 49, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 10),
    )  # fmt: skip


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    train, test = pictures("train")[:rows], pictures("t10k")[: max(1000, rows // 6)]
    spark = gap.session()
    with tempfile.TemporaryDirectory() as folder:
        shards = gap.write_shards(spark.createDataFrame(train), f"{folder}/train")
        steps = EPOCHS * -(-rows // BATCH)
        model = gap.fit(
            network, shards, inputs=["pixels"], label="label", loss="cross_entropy", optimizer="adam", learning_rate=2e-3,
            schedule=lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2, epochs=EPOCHS, batch_size=BATCH,
            workers=2,
        )  # fmt: skip
    for epoch in model.history:
        print("epoch {epoch:.0f}: loss {loss:.3f}, {rows_per_second:,.0f} rows/s".format(**epoch))
    out = gap.transform(spark.createDataFrame(test), model, inputs=["pixels"], outputs=["scores"], keep=["label"]).toArrow()
    right = np.array(out["scores"].to_pylist()).argmax(1) == out["label"].to_numpy()
    print(f"test accuracy: {100 * right.mean():.2f} %")
    if rows == 60_000:
        assert right.mean() >= 0.88
    spark.stop()


if __name__ == "__main__":
    main()
