"""How rows come to the ranks: shards, broadcast and stream give the same rows, and say what fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sparkgap as gap
from sparkgap.cooperative.feeding import SMALL
from sparkgap.monitor import driver

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.cooperative.worker import Worker


@pytest.fixture(scope="module")
def uneven(spark: SparkSession) -> DataFrame:
    """1,003 rows in seven partitions, most of them in one, some of them empty."""
    from pyspark.sql import functions as F

    place = F.when(F.col("id") < 900, 0).otherwise(F.col("id") % 4)
    return spark.range(1003).repartition(7, place).selectExpr("id", "array(float(id), 0.5f) AS x", "string(id) AS s")


def batches(worker: Worker) -> list[tuple[int, list[int]]]:
    found = []
    for block in worker.batches(100, epochs=2):
        assert np.array_equal(block["x"], np.stack([block["id"], np.full(len(block["id"]), 0.5)], 1))
        assert block["s"].tolist() == [str(i) for i in block["id"]]
        found.append((worker.epoch, block["id"].tolist()))
    return found


def test_broadcast_gives_the_batches_of_shards(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    df = spark.range(0, 1003, 1, 7).selectExpr("id", "array(float(id), 0.5f) AS x", "string(id) AS s")  # no shuffle: one order
    store = driver.monitor().store
    before = set(store.history.runs())
    with caplog.at_level(logging.INFO, "sparkgap.train"):
        given = gap.train(batches, df, workers=2, returns="all", backend=None, feed="broadcast").values
    assert "feed='broadcast': asked for" in caplog.text
    assert given == gap.train(batches, df, workers=2, returns="all", backend=None, feed="shards").values
    details = set()
    for run in set(store.history.runs()) - before:
        with store.reading(run) as state:
            details.add(state.details.get("feed", "") if state is not None else "")
    assert {"broadcast: asked for", "shards: asked for"} <= details


def test_auto_collects_what_is_small(spark: SparkSession, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    small, many = spark.range(10), spark.range(50).selectExpr("id", "repeat('x', 100000) AS s")
    spark.conf.set(SMALL, "1m")
    try:
        for df, why in (
            (small, r"feed='broadcast': Spark's plan says 80 bytes"),
            (many, "feed='shards': .*more than 1,048,576"),
        ):
            caplog.clear()
            with caplog.at_level(logging.INFO, "sparkgap.train"):
                found = gap.train(lambda worker: sum(len(b["id"]) for b in worker.batches(8)), df, workers=1, backend=None)
            assert found.value == df.count()
            assert __import__("re").search(why, caplog.text), caplog.text
    finally:
        spark.conf.unset(SMALL)


def test_streamed_rows_come_once_a_pass(uneven: DataFrame) -> None:
    found = gap.train(batches, uneven, workers=1, backend=None, feed="stream").value
    for epoch in range(2):
        ids = [i for number, some in found if number == epoch for i in some]
        assert sorted(ids) == list(range(1003))
    assert [len(some) for _, some in found] == ([100] * 10 + [3]) * 2
    assert found[0] != found[11]


def test_a_dataframe_that_fails_is_the_cause(uneven: DataFrame) -> None:
    from pyspark.sql import functions as F

    @F.udf("long")
    def broken(i: int) -> int:
        if i == 700:
            raise ArithmeticError("bad row")
        return i

    for feed in ("stream", "broadcast"):
        with pytest.raises(Exception, match="ArithmeticError: bad row"):
            gap.train(_count, uneven.select(broken("id").alias("id")), workers=1, backend=None, feed=feed)
    with pytest.raises(gap.DataError, match="Column `id` of type int64 is null"):
        gap.train(_count, uneven.selectExpr("nullif(id, 3) AS id"), workers=1, backend=None, feed="stream")


def _count(worker: Worker) -> int:
    return sum(len(block["id"]) for block in worker.batches(64))


def test_what_cannot_be_is_said_at_once(uneven: DataFrame, spark: SparkSession) -> None:
    with pytest.raises(gap.SessionError, match=r"2 workers and one task that reads need 3 slots, and there are 2.*workers=1"):
        gap.train(_count, uneven, workers=2, feed="stream")
    with pytest.raises(gap.ConfigurationError, match="feed='nix': one of 'auto'"):
        gap.train(_count, uneven, feed="nix")  # type: ignore[arg-type]
    with pytest.raises(gap.ConfigurationError, match="takes a DataFrame, and data is shards"):
        gap.train(_count, "/nowhere", feed="stream")


def test_a_fit_takes_all_feeds(spark: SparkSession) -> None:
    import torch

    df, held = (
        spark.range(0, rows, 1, 4).selectExpr(
            "array(float(id % 7)) AS a", "float(2 * (id % 7) + 1) AS y", "nullif(id, 3) AS unused"
        )
        for rows in (400, 50)
    )
    losses = {}
    for feed in ("shards", "broadcast", "stream"):
        torch.manual_seed(0)
        model: Any = gap.fit(
            torch.nn.Linear(1, 1), df, inputs=["a"], label="y", loss="mse", learning_rate=0.1, epochs=3, workers=1,
            validation=held, feed=feed,
        )  # fmt: skip
        losses[feed] = [round(h["val_loss"], 5) for h in model.history]
    assert losses["shards"] == losses["broadcast"]
    assert losses["stream"][-1] < losses["stream"][0]


THREE_SLOTS = """
import json, os, signal, sys, logging
import sparkgap as gap
spark = gap.session("local[3]", conf={"spark.ui.enabled": "false"})
df = spark.range(0, 40000, 1, 5)

def rows(worker):
    found = [block["id"].tolist() for block in worker.batches(64)]
    return [len(b) for b in found], sorted(i for b in found for i in b)

def raises(worker):
    for block in worker.batches(64):
        if worker.rank == 1 and worker.steps == 9:
            raise LookupError("no such layer")

def goes_on(worker):
    state = worker.restore()
    for block in worker.batches(64, epochs=2):
        if worker.steps == 700:
            worker.save({"at": worker.steps})
            if worker.rank == 1 and state is None:
                os.kill(os.getpid(), signal.SIGKILL)
    return worker.steps

def leaves(worker):
    for block in worker.batches(64):
        break
    return sum(len(block["id"]) for block in worker.batches(64))

told = {}
options = dict(workers=2, feed="stream", backend=None)
values = gap.train(rows, df, returns="all", **options).values
told["steps"] = values[0][0] == values[1][0] == [32] * 625
told["rows"] = sorted(values[0][1] + values[1][1]) == list(range(40000))
try:
    gap.train(raises, df, **options)
except gap.RankError as error:
    told["raised"] = [error.rank, error.message]
result = gap.train(goes_on, df, checkpoint=sys.argv[1], **options)
told["attempts"], told["went_on"] = result.attempts, result.value
told["left"] = sum(gap.train(leaves, df, returns="all", **options).values)
told["jobs"] = list(spark.sparkContext.statusTracker().getActiveJobsIds())
print("TOLD " + json.dumps(told))
spark.stop()
"""


@pytest.mark.classic
def test_two_ranks_beside_the_job_that_feeds_them(tmp_path: Any, kind: str) -> None:
    """In a session of its own, as those of the other tests have two slots."""
    done = subprocess.run(
        [sys.executable, "-c", THREE_SLOTS, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    line = next((one for one in done.stdout.splitlines() if one.startswith("TOLD ")), None)
    assert line is not None, done.stdout + done.stderr
    told = json.loads(line[5:])
    assert told["raised"][0] == 1
    assert "Rank 1 of 2 raised LookupError: no such layer" in told.pop("raised")[1]
    # the checkpoint lies in the second pass, which begins again: 700 steps, and 625 more
    assert told == {"steps": True, "rows": True, "attempts": 2, "went_on": 1325, "left": 40000, "jobs": []}
