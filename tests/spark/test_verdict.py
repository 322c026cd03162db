"""Jobs that are slow in one place on purpose: the verdict names it, and the fix that it names does help.

Both versions of a job do the same kind of work; the fixed one is what the verdict's words ask for. The slow ones lose
their time in sleeps and in work done several times over, so that the order of the two times is beyond doubt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkgap as gap
from sparkgap.data.source import Chunk, Source
from sparkgap.monitor import driver
from sparkgap.monitor.verdict import Verdict, of_run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [pytest.mark.alone, pytest.mark.classic, pytest.mark.local]


def scalar(function: Callable[..., Any], out: str = "float32") -> gap.Model:
    """A model from x to y, both one number a row."""
    return gap.load(function, signature=gap.Signature((gap.TensorSpec("x", "float32", ()),), (gap.TensorSpec("y", out, ()),)))


def table(spark: SparkSession, rows: int, parts: int) -> DataFrame:
    return spark.range(0, rows, 1, parts).selectExpr("id", "float(id) AS x")


def apply(data: Any, model: Any, **options: Any) -> DataFrame:
    return gap.transform(data, model, keep=["id"], **options)


def took(frame: DataFrame, sink: Any = None) -> tuple[float, Verdict, str]:
    """Run a job; returns its seconds, the verdict, and the summary for messages."""
    start = time.perf_counter()
    action = frame if sink is None else frame.mapInArrow(sink, frame.schema)
    action.write.format("noop").mode("overwrite").save()
    seconds = time.perf_counter() - start
    run = gap.summary(frame).run
    store = driver.monitor().store
    deadline = time.monotonic() + 20
    while True:
        version = store.version
        with store.reading(run) as state:
            assert state is not None
            if state.task_count() is not None and state.status() == "done":
                return seconds, of_run(state), str(gap.summary(frame))
        assert time.monotonic() < deadline, "the run did not end"
        store.wait(version, 0.5)


def burn(seconds: float) -> None:
    """Use a core, without holding the interpreter's lock, for some work that takes about so long on an idle core."""
    a = np.ones((256, 256), dtype=np.float64)
    for _ in range(max(1, int(seconds / 0.0015))):
        a = a @ a / 256


@dataclass(frozen=True)
class Job:
    """A slow job, the limit that must be named, words of the fix, and the job after the fix."""

    limit: str
    fix: str
    slow: Callable[[SparkSession, Path], DataFrame]
    fast: Callable[[SparkSession, Path], DataFrame]
    sink: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]] | None = None


def waiting(x: Any) -> dict[str, Any]:
    time.sleep(0.05)
    return {"y": x}


def heavy(x: Any) -> dict[str, Any]:
    burn(len(x) * 3e-3)
    return {"y": x}


def light(x: Any) -> dict[str, Any]:
    burn(len(x) * 1e-5)
    return {"y": x}


def slow_rows(x: Any) -> dict[str, Any]:
    time.sleep(len(x) * 1e-3)
    return {"y": x}


def call_cost(x: Any) -> dict[str, Any]:
    until = time.perf_counter() + 0.0007  # what a call costs, whatever the number of rows
    while time.perf_counter() < until:
        pass
    return {"y": x}


def eight_threads(x: Any) -> dict[str, Any]:
    with ThreadPoolExecutor(8) as pool:  # each waits actively, as the threads of OpenMP do
        list(pool.map(burn, [0.05] * 8))
    return {"y": x}


def one_thread(x: Any) -> dict[str, Any]:
    burn(0.05)
    return {"y": x}


def wide(spark: SparkSession, folder: Path) -> str:
    path = folder / "wide"
    if not path.exists():
        path.mkdir()
        values = np.random.default_rng(0).standard_normal(4000 * 1500).astype(np.float32)
        x = pa.FixedSizeListArray.from_arrays(pa.array(values), 1500).cast(pa.list_(pa.float32()))
        for n in range(4):
            pq.write_table(pa.table({"id": pa.array(range(n * 4000, n * 4000 + 4000)), "x": x}), path / f"{n}.parquet")
    return str(path)


def first_value(x: Any) -> dict[str, Any]:
    return {"y": np.ascontiguousarray(x[:, 0])}


@dataclass(frozen=True)
class SlowStorage(Source):
    """A source whose storage answers late."""

    source: Source
    delay: float

    name = "late files"

    @property
    def schema(self) -> pa.Schema:
        return self.source.schema

    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> Any:
        return self.source.splits(tasks=tasks, max_bytes=max_bytes)

    def read(self, split: Any, *, columns: Any, rows: int) -> Iterator[Chunk]:
        for chunk in self.source.read(split, columns=columns, rows=rows):
            time.sleep(self.delay)
            yield chunk

    def to_df(self, spark: SparkSession) -> DataFrame:
        return self.source.to_df(spark)


def slow_sink(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        time.sleep(batch.num_rows * 2e-5)
        yield batch


def many(x: Any) -> dict[str, Any]:
    return {"many": np.ones((len(x), 3000), dtype=np.float32), "y": x}


def skewed(spark: SparkSession, rows: int) -> DataFrame:
    """One partition with nearly all rows."""
    from pyspark.sql import functions as F

    small = spark.range(0, 200, 1, 3)
    big = spark.range(200, rows, 1, 1)
    return small.union(big).select("id", F.col("id").cast("float").alias("x"))


def hard_in_one_place(x: Any) -> dict[str, Any]:
    time.sleep(float((x < 1000).sum()) * 2e-3)
    return {"y": x}


def vector() -> gap.Model:
    """A model that looks at one value of a wide row."""
    return gap.load(
        first_value, signature=gap.Signature((gap.TensorSpec("x", "float32", (1500,)),), (gap.TensorSpec("y", "float32", ()),))
    )


def mean(side: int) -> gap.Model:
    """A model that does next to nothing with a picture."""
    return gap.load(
        lambda x: {"y": np.ascontiguousarray(x[:, 0, 0, 0])},
        signature=gap.Signature((gap.TensorSpec("x", "float32", (3, side, side)),), (gap.TensorSpec("y", "float32", ()),)),
    )


def wide_output() -> gap.Model:
    """A model that gives three thousand numbers a row besides the one that is wanted: arrays that cost nothing to make."""
    outputs = (gap.TensorSpec("many", "float32", (3000,)), gap.TensorSpec("y", "float32", ()))
    return gap.load(many, signature=gap.Signature((gap.TensorSpec("x", "float32", ()),), outputs))


def pictures(folder: Path) -> str:
    """Some large photographs."""
    from PIL import Image

    path = folder / "pictures"
    if not path.exists():
        path.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (1800, 1800, 3), dtype=np.uint8)
        for n in range(24):
            Image.fromarray(noise).save(path / f"{n}.jpg", quality=85)
    return str(path)


def slow_files(folder: str, delay: float) -> Source:
    return SlowStorage(gap.files(folder), delay)


JOBS = {
    "a model that waits": Job(
        "waiting model", "larger batches",
        lambda s, _: apply(table(s, 2000, 2), scalar(waiting), batch_size=50),
        lambda s, _: apply(table(s, 2000, 2), scalar(waiting), batch_size=1000),
    ),
    "a heavy model": Job(
        "model", "smaller",
        lambda s, _: apply(table(s, 2000, 2), scalar(heavy), batch_size=100),
        lambda s, _: apply(table(s, 2000, 2), scalar(light), batch_size=100),
    ),
    "batches of one row": Job(
        "small batches", "batch_size",
        lambda s, _: apply(table(s, 3000, 2), scalar(call_cost), batch_size=1),
        lambda s, _: apply(table(s, 3000, 2), scalar(call_cost), batch_size=256),
    ),
    "too many threads": Job(
        "threads", "as many threads as the task has cores",
        lambda s, _: apply(table(s, 2000, 2), scalar(eight_threads), batch_size=100),
        lambda s, _: apply(table(s, 2000, 2), scalar(one_thread), batch_size=100),
    ),
    "wide rows through Spark": Job(
        "read", "boundary='files'",
        lambda s, d: apply(s.read.parquet(wide(s, d)), vector(), batch_size=512, boundary="rows"),
        lambda s, d: apply(s.read.parquet(wide(s, d)), vector(), batch_size=512, boundary="files"),
    ),
    "slow storage": Job(
        "read", "faster storage",
        lambda s, d: apply(slow_files(wide(s, d), 0.25), vector(), batch_size=512),
        lambda s, d: apply(slow_files(wide(s, d), 0.0), vector(), batch_size=512),
    ),
    "large pictures": Job(
        "decode", "smaller size",
        lambda s, d: gap.transform(gap.images(pictures(d)), mean(1600), inputs={"x": gap.image("content", size=(1600, 1600))}),
        lambda s, d: gap.transform(gap.images(pictures(d)), mean(64), inputs={"x": gap.image("content", size=(64, 64))}),
    ),
    "much more output than anybody needs": Job(
        "write", "give it less",
        lambda s, _: apply(table(s, 30_000, 2), wide_output(), batch_size=1000),
        lambda s, _: apply(table(s, 30_000, 2), wide_output(), outputs={"y": "y"}, batch_size=1000),
    ),
    "a slow sink": Job(
        "write", "sink",
        lambda s, _: apply(table(s, 200_000, 2), scalar(lambda x: {"y": x}), batch_size=2000),
        lambda s, _: apply(table(s, 200_000, 2), scalar(lambda x: {"y": x}), batch_size=2000),
        slow_sink,
    ),
    "one partition with nearly all rows": Job(
        "straggler", "repartition",
        lambda s, _: apply(skewed(s, 3000), scalar(slow_rows), batch_size=100),
        lambda s, _: apply(skewed(s, 3000).repartition(4), scalar(slow_rows), batch_size=100),
    ),
    "one partition with all hard rows": Job(
        "straggler", "smaller partitions",
        lambda s, _: apply(table(s, 4000, 4), scalar(hard_in_one_place), batch_size=100),
        lambda s, _: apply(table(s, 4000, 4).repartition(8), scalar(hard_in_one_place), batch_size=100),
    ),
    "one task for two slots": Job(
        "idle slots", "repartition",
        lambda s, _: apply(table(s, 2000, 1), scalar(slow_rows), batch_size=100),
        lambda s, _: apply(table(s, 2000, 1).repartition(4), scalar(slow_rows), batch_size=100),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", JOBS)
def test_the_limit_is_named_and_the_fix_helps(spark: SparkSession, folder: Path, name: str) -> None:
    job = JOBS[name]
    took(job.fast(spark, folder))  # workers and the JVM get warm
    slow, verdict, summary = took(job.slow(spark, folder), job.sink)
    assert verdict.limit == job.limit, f"{verdict}\n{summary}"
    assert job.fix in verdict.fix, str(verdict)
    fast, _, after = took(job.fast(spark, folder))
    print(f"{name}: {slow:.2f} s before, {fast:.2f} s after; {verdict.text}")
    assert fast < slow, f"{slow:.2f} s before and {fast:.2f} s after\n{summary}\n{after}"


def test_a_model_that_loads_long(spark: SparkSession, tmp_path: Path) -> None:
    """The fix is a worker that lives: the second action finds the model there."""

    class Slow:
        def __init__(self) -> None:
            self.ready = True

        def __setstate__(self, state: dict[str, Any]) -> None:
            time.sleep(1.5)
            self.__dict__.update(state)

        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x}

    out = apply(table(spark, 1000, 2), scalar(Slow()), batch_size=100)
    slow, verdict, summary = took(out)
    assert verdict.limit == "load", f"{verdict}\n{summary}"
    assert "worker.reuse" in verdict.fix
    # Workers that earlier tests left may be chosen first: each of them loads the model once.
    later = [took(out)[0] for _ in range(8)]
    assert min(later) < slow - 1.0, f"{slow:.2f} s before and {later} s after"
