"""(a) A table of 784 floats a row through a small network: how much does the way to the model cost?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import (
    ARROW,
    AUTO,
    FILES,
    LIMIT,
    ROWS,
    UDF,
    Claim,
    Contender,
    Result,
    Settings,
    measure,
    session,
    spark_contender,
)
from benchmarks.limit import Limit, Score, lists, one_thread, read_group, row_groups

FULL_ROWS, WIDTH, PARTS, BATCH = 200_000, 784, 8, 1024
CLAIMS = (
    Claim(ROWS, UDF, 1.7),
    Claim(FILES, UDF, 3.5),
    Claim(AUTO, UDF, 3.5),
    Claim(FILES, LIMIT, 0.9),
    Claim(AUTO, LIMIT, 0.9),
)


def network() -> Any:
    """Return the network 784-128-10, the same one in every process."""
    import torch

    layers = torch.nn.Sequential(torch.nn.Linear(WIDTH, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    random = torch.Generator().manual_seed(7)  # a generator of its own: Daft makes networks in several threads at once
    for values in layers.parameters():
        torch.nn.init.normal_(values, std=0.05, generator=random)
    return layers.eval()


@cache
def scorer() -> Callable[[np.ndarray], np.ndarray]:
    """Return the direct use of the framework, loaded once in a process."""
    import warnings

    import torch

    one_thread()
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    net = network()

    def score(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y: np.ndarray = net(torch.from_numpy(x)).numpy()
        return y

    return score


def score_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Score batches in slices of the batch size, without copying. The body of the `mapInArrow` by hand."""
    score = scorer()
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH):
            batch = whole.slice(start, BATCH)
            x = batch.column("x").flatten().to_numpy().reshape(-1, WIDTH)
            yield pa.RecordBatch.from_arrays([batch.column("key"), lists(score(x))], names=["key", "y"])


def plain() -> Score:
    """Return what a process of the limit does with a row group."""
    scorer()
    return lambda job: score_batches(read_group(job, BATCH, ["key", "x"]))


def numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Make the table's rows from their keys."""
    for batch in batches:
        keys = batch.column(0)
        rng = np.random.default_rng(keys[0].as_py())
        x = rng.standard_normal((len(keys), WIDTH), dtype=np.float32)
        yield pa.RecordBatch.from_arrays([keys, lists(x)], names=["key", "x"])


def make(folder: Path, rows: int) -> None:
    """Write the table with Spark."""
    keys = session().range(0, rows, 1, PARTS).withColumnRenamed("id", "key")
    keys.mapInArrow(numbers, "key long, x array<float>").write.mode("overwrite").parquet(str(folder))


def run(settings: Settings, peers: Callable[[Path], Sequence[Contender]] | None = None) -> Result:
    """Measure; `peers` makes more contenders for the folder of the table."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import ArrayType, FloatType

    import sparkgap as gap

    rows = settings.rows(FULL_ROWS)
    folder = settings.data("dense", rows, lambda path: make(path, rows))
    spark = session()
    table = spark.read.parquet(str(folder))
    udf = predict_batch_udf(scorer, return_type=ArrayType(FloatType()), batch_size=BATCH, input_tensor_shapes=[[WIDTH]])
    model = gap.load(network())

    def ours(data: Any, boundary: str) -> Any:
        return gap.transform(data, model, inputs=["x"], outputs=["y"], keep=["key"], batch_size=BATCH, boundary=boundary)

    limit = Limit(plain, row_groups(folder))
    contenders = [
        spark_contender(UDF, table.select("key", udf("x").alias("y"))),
        spark_contender(ARROW, table.mapInArrow(score_batches, "key long, y array<float>")),
        spark_contender(ROWS, ours(table, "rows")),
        spark_contender(FILES, ours(gap.files(str(folder)), "files")),
        spark_contender(AUTO, ours(table, "auto")),
        *(peers(folder) if peers else ()),
        limit.contender(),
    ]
    title = f"(a) {rows:,} rows x {WIDTH} float32, network {WIDTH}-128-10 (torch), batches of {BATCH}"
    try:
        return measure(Result(title, rows, "rows", CLAIMS, warm_up=4), contenders, settings, 1e-5)
    finally:
        limit.close()
