"""(d) Twenty columns of doubles through gradient-boosted trees: nothing but conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import ARROW, AUTO, FILES, ROWS, UDF, Claim, Result, Settings, measure, session, spark_contender
from benchmarks.limit import Limit, Score, one_thread, read_group, row_groups

FULL_ROWS, PARTS, BATCH = 2_000_000, 8, 8192
COLUMNS = [f"c{n:02}" for n in range(20)]
TREES, DEPTH = 20, 4
CLAIMS = (Claim(ROWS, UDF, 1.0), Claim(FILES, UDF, 3.0), Claim(AUTO, UDF, 3.0))


def train(path: Path) -> None:
    """Train the trees on a seeded regression and write them as XGBoost's JSON."""
    import xgboost

    rng = np.random.default_rng(5)
    x = rng.standard_normal((20_000, len(COLUMNS)))
    y = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + np.abs(x[:, 3:]).sum(axis=1) / 8
    options = {"max_depth": DEPTH, "eta": 0.3, "nthread": 1, "seed": 5, "tree_method": "hist"}
    xgboost.train(options, xgboost.DMatrix(x, y), TREES).save_model(path)


@cache
def scorer(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the direct use of the framework, loaded once in a process."""
    import xgboost

    one_thread()
    booster = xgboost.Booster({"nthread": 1}, model_file=path)
    return lambda x: booster.inplace_predict(x)


def score_batches(path: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Score batches in slices of the batch size. The body of the `mapInArrow` by hand."""
    score = scorer(path)
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH):
            batch = whole.slice(start, BATCH)
            x = np.empty((batch.num_rows, len(COLUMNS)), np.float32)
            for n, name in enumerate(COLUMNS):
                x[:, n] = batch.column(name)
            yield pa.RecordBatch.from_arrays([batch.column("key"), pa.array(score(x))], names=["key", "y"])


def plain(path: str) -> Score:
    """Return what a process of the limit does with a row group."""
    scorer(path)
    return lambda job: score_batches(path, read_group(job, BATCH, ["key", *COLUMNS]))


def numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Make the table's rows from their keys."""
    for batch in batches:
        keys = batch.column(0)
        x = np.random.default_rng(keys[0].as_py()).standard_normal((len(COLUMNS), len(keys)))
        yield pa.RecordBatch.from_arrays([keys, *(pa.array(c) for c in x)], names=["key", *COLUMNS])


def make(folder: Path, rows: int) -> None:
    """Write the table with Spark."""
    keys = session().range(0, rows, 1, PARTS).withColumnRenamed("id", "key")
    schema = ", ".join(["key long", *(f"{c} double" for c in COLUMNS)])
    keys.mapInArrow(numbers, schema).write.mode("overwrite").parquet(str(folder))


def run(settings: Settings) -> Result:
    """Measure."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.functions import struct
    from pyspark.sql.types import FloatType

    import sparkgap as gap

    rows = settings.rows(FULL_ROWS)
    folder = settings.data("scalars", rows, lambda path: make(path, rows))
    trees = settings.folder / "trees.json"
    train(trees)
    spark = session()
    table = spark.read.parquet(str(folder))
    # One struct of all columns is the fastest of the three forms it takes: `array` and one argument a column are slower.
    udf = predict_batch_udf(
        partial(scorer, str(trees)), return_type=FloatType(), batch_size=BATCH, input_tensor_shapes=[[len(COLUMNS)]]
    )
    model = gap.load(str(trees))

    def ours(data: Any, boundary: str) -> Any:
        (tensor,) = model.signature.inputs
        return gap.transform(
            data, model, inputs={tensor.name: COLUMNS}, outputs=["y"], keep=["key"], batch_size=BATCH, boundary=boundary
        )

    by_hand = partial(score_batches, str(trees))
    limit = Limit(partial(plain, str(trees)), row_groups(folder))
    contenders = [
        spark_contender(UDF, table.select("key", udf(struct(*COLUMNS)).alias("y"))),
        spark_contender(ARROW, table.mapInArrow(by_hand, "key long, y float")),
        spark_contender(ROWS, ours(table, "rows")),
        spark_contender(FILES, ours(gap.files(str(folder)), "files")),
        spark_contender(AUTO, ours(table, "auto")),
        limit.contender(),
    ]
    title = f"(d) {rows:,} rows x {len(COLUMNS)} double columns, {TREES} trees of depth {DEPTH} (XGBoost), batches of {BATCH}"
    try:
        return measure(Result(title, rows, "rows", CLAIMS, warm_up=4), contenders, settings, 1e-5)
    finally:
        limit.close()
