"""Block operations against MLlib, pandas UDFs and the limit: `python -m benchmarks.blocks [kmeans aggregate map memory]`.

kmeans: 100,000 x 100 doubles, k=10, ten iterations from the same centres; MLlib's KMeans on cached vectors.
aggregate: sums of vectors of 16 floats by 1,000 keys; a grouped pandas UDF.
map: x + 3 on doubles; a pandas UDF, where rows must cross the JVM, and on Parquet files.
memory: the peak of a Spark worker on one partition of 3 GB.
Contenders take turns; medians with the fastest and slowest.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPEATS = 5


def compared(title: str, contenders: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, Any]:
    """Run each as often as asked, after once to warm up, print times, and return what each gave last."""
    given = {name: work() for name, work in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            began = time.perf_counter()
            given[name] = work()
            seconds[name].append(time.perf_counter() - began)
    print(title)
    base = statistics.median(seconds[next(iter(contenders))])
    for name, took in seconds.items():
        middle = statistics.median(took)
        print(f"  {name:34s} {middle:7.3f} s ({min(took):.3f} to {max(took):.3f})  {base / middle:5.2f} x", flush=True)
    return given


def lists(values: np.ndarray) -> pa.Array:
    """Return the rows of a matrix as lists."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]).cast(pa.list_(kind))


def kmeans(spark: Any, folder: Path) -> None:
    """Ten iterations of Lloyd's algorithm."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.mllib.clustering import KMeans, KMeansModel
    from pyspark.mllib.linalg import Vectors

    import sparkgap as gap

    rows, width, k, rounds = 100_000, 100, 10, 10
    draw = np.random.default_rng(0)
    x = draw.normal(size=(k, width))[draw.integers(0, k, rows)] * 2 + draw.normal(size=(rows, width))
    first = x[draw.choice(rows, k, replace=False)]
    for part in np.array_split(np.arange(rows), 2):
        pq.write_table(pa.table({"x": lists(x[part])}), folder / f"points-{part[0]}.parquet")
    frame = gap.analyze(spark.read.parquet(str(folder)).cache())
    frame.count()
    files = gap.files(str(folder))
    vectors = frame.select(array_to_vector("x").alias("x")).rdd.map(lambda row: Vectors.dense(row.x.toArray())).cache()
    vectors.count()

    def mllib() -> np.ndarray:
        model = KMeans.train(vectors, k, maxIterations=rounds, initialModel=KMeansModel(list(first)), epsilon=0.0)
        return np.array(model.clusterCenters)

    def ours(points: Any) -> np.ndarray:
        centres = first
        for _ in range(rounds):
            centres = _step(gap, points, centres)
        return centres

    given = compared(
        f"k-means, {rows:,} x {width}, k={k}, {rounds} iterations",
        {"MLlib": mllib, "map_blocks, cached DataFrame": lambda: ours(frame), "map_blocks, files": lambda: ours(files)},
        repeats=3,
    )
    for name, centres in given.items():
        print(f"  {name}: centres apart by {np.abs(centres - given['MLlib']).max():.1e}")


def _step(gap: Any, points: Any, centres: np.ndarray) -> np.ndarray:
    squares = (centres**2).sum(axis=1)

    def nearest(x: np.ndarray) -> dict[str, np.ndarray]:
        own = (squares - 2 * x @ centres.T).argmin(axis=1)
        chosen = np.zeros((len(centres), len(x)))
        chosen[own, np.arange(len(x))] = 1.0
        return {"total": (chosen @ x)[None], "count": chosen.sum(axis=1)[None]}

    found = gap.reduce_blocks(
        lambda total, count: {"total": total.sum(axis=0), "count": count.sum(axis=0)},
        gap.map_blocks(nearest, points, trim=True),
    )
    moved: np.ndarray = found["total"] / found["count"][:, None]
    return moved


def aggregate(spark: Any, folder: Path) -> None:
    """Sums by key."""
    import pandas as pd

    import sparkgap as gap

    rows, width, keys = 1_000_000, 16, 1000
    draw = np.random.default_rng(1)
    table = pa.table({"key": draw.integers(0, keys, rows), "v": lists(draw.normal(size=(rows, width)).astype("f4"))})
    pq.write_table(table, folder / "a.parquet", row_group_size=rows // 8)
    frame = gap.analyze(spark.read.parquet(str(folder)).cache())
    frame.count()

    def total(group: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"key": group["key"].iloc[:1], "v": [np.stack(list(group["v"])).sum(axis=0)]})

    def table_of(df: Any) -> np.ndarray:
        return np.array(df.toArrow().sort_by("key")["v"].to_pylist())

    given = compared(
        f"sums of {width} floats by {keys:,} keys, {rows:,} rows",
        {
            "grouped pandas UDF": lambda: table_of(frame.groupBy("key").applyInPandas(total, "key long, v array<float>")),
            "aggregate": lambda: table_of(gap.aggregate(lambda v: {"v": v.sum(axis=0)}, frame.groupBy("key"))),
        },
    )
    print(f"  apart by {np.abs(given['aggregate'] - given['grouped pandas UDF']).max():.1e}")


def add_three(spark: Any, folder: Path) -> None:
    """X + 3."""
    import pandas as pd
    from pyspark.sql import functions as F

    import sparkgap as gap

    rows = 20_000_000
    pq.write_table(
        pa.table({"x": np.random.default_rng(2).normal(size=rows)}), folder / "a.parquet", row_group_size=rows // 16
    )
    frame = spark.read.parquet(str(folder)).cache()
    frame.count()
    plain = spark.read.parquet(str(folder))
    files = gap.files(str(folder))

    @F.pandas_udf("double")  # type: ignore[untyped-decorator]
    def pandas_udf(x: pd.Series) -> pd.Series:
        return x + 3.0

    @F.arrow_udf("double")  # type: ignore[untyped-decorator]
    def arrow_udf(x: pa.Array) -> pa.Array:
        return pa.compute.add(x, 3.0)

    def consume(df: Any) -> None:
        df.write.format("noop").mode("overwrite").save()

    def add(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"z": x + 3.0}

    compared(
        f"x + 3, {rows:,} rows of a cached DataFrame",
        {
            "pandas UDF": lambda: consume(frame.select(pandas_udf("x"))),
            "map_blocks": lambda: consume(gap.map_blocks(add, frame)),
            "map_blocks(trim=True)": lambda: consume(gap.map_blocks(add, frame, trim=True)),
            "arrow UDF": lambda: consume(frame.select(arrow_udf("x"))),
            "Spark's own expression": lambda: consume(frame.select(F.col("x") + 3.0)),
        },
    )
    compared(
        f"x + 3 and the sum of it, {rows:,} rows of Parquet files",
        {
            "pandas UDF": lambda: plain.select(pandas_udf("x").alias("z")).agg(F.sum("z")).first()[0],
            "map_blocks(trim=True), sums": lambda: gap.map_blocks(
                lambda x: {"z": (x + 3.0).sum()[None]}, files, trim=True
            ).agg(F.sum("z")).first()[0],
            "map_blocks": lambda: gap.map_blocks(add, files).agg(F.sum("z")).first()[0],
        },
    )  # fmt: skip


def memory(spark: Any, folder: Path) -> None:
    """The most memory of a Spark worker that maps one partition of 3 GB."""
    import sparkgap as gap

    rows, width = 3_000_000, 128

    def watched(v: np.ndarray) -> dict[str, np.ndarray]:
        peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
        return {"rows": np.array([len(v)]), "mb": np.array([peak])}

    df = spark.range(0, rows, 1, 1).selectExpr(f"array_repeat(double(id), {width}) AS v")
    known = gap.append_shape(df, "v", [width])
    out = gap.map_blocks(watched, known, trim=True).toPandas()
    total, least, most = out["rows"].sum(), out["mb"].min(), out["mb"].max()
    print(f"one partition of {total:,} rows, {total * width * 8 / 1e9:.1f} GB: worker {least:.0f} to {most:.0f} MiB")


PARTS = {"kmeans": kmeans, "aggregate": aggregate, "map": add_three, "memory": memory}


def main() -> None:
    """Run what the command line asks for."""
    import sparkgap as gap

    spark = gap.session("local[2]", conf={"spark.driver.memory": "6g", "spark.ui.enabled": "false"})
    for name in sys.argv[1:] or list(PARTS):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](spark, Path(folder))
        spark.catalog.clearCache()


if __name__ == "__main__":
    main()
