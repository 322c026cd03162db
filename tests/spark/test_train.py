"""`gap.train` on real Spark: all ranks or none, every row once, and one honest cause where it fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import sparkgap as gap
from sparkgap.cooperative.worker import Worker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(scope="module")
def uneven(spark: SparkSession) -> DataFrame:
    """1,003 rows in seven partitions, most of them in one, two of them empty."""
    from pyspark.sql import functions as F

    place = F.when(F.col("id") < 900, 0).otherwise(F.col("id") % 4)
    return spark.range(1003).select("id", (F.col("id") / 1000).cast("float").alias("x")).repartition(7, place)


def test_ranks_meet_and_average(spark: SparkSession) -> None:
    def work(worker: Worker) -> tuple[Any, ...]:
        import torch

        tensor = worker.average(torch.tensor([float(worker.rank), 4.0]))
        both = worker.average({"a": np.full(3, worker.rank, "f4"), "b": [1.0, worker.rank]})
        where = (os.environ["RANK"], os.environ["WORLD_SIZE"], worker.device)
        return worker.gather(worker.rank * 10), tensor.tolist(), both["a"].tolist(), both["b"], where

    for _ in range(2):  # the second one finds the processes of the first
        result = gap.train(work, workers=2, returns="all")
        for rank, (said, tensor, array, numbers, where) in enumerate(result.values):
            assert said == [0, 10]
            assert tensor == [0.5, 4.0]
            assert array == [0.5] * 3
            assert numbers == [1.0, 0.5]
            assert where == (str(rank), "2", "cpu")
        assert result.attempts == 1


def test_only_the_value_of_rank_0_travels(spark: SparkSession) -> None:
    assert gap.train(lambda worker: worker.rank, workers=2).values == [0, None]


@pytest.mark.parametrize(("batch_size", "workers"), [(64, 1), (64, 2), (7, 2), (5000, 2)])
def test_every_row_is_seen_once_an_epoch(uneven: DataFrame, batch_size: int, workers: int) -> None:
    def work(worker: Worker) -> list[list[int]]:
        seen: list[list[int]] = [[], []]
        for block in worker.batches(batch_size, epochs=2):
            seen[worker.epoch] += block["id"].tolist()
            assert np.allclose(block["x"], block["id"] / 1000)
        return seen

    values = gap.train(work, uneven, workers=workers, returns="all").values
    for epoch in range(2):
        assert sorted(i for seen in values for i in seen[epoch]) == list(range(1003))
    assert values[0][0] != values[0][1]


def test_fewer_rows_than_workers_and_none(spark: SparkSession) -> None:
    def work(worker: Worker) -> list[int]:
        return [len(block["id"]) for block in worker.batches(8)]

    assert gap.train(work, spark.range(1), workers=2, returns="all").values == [[0], [1]]
    assert gap.train(work, spark.range(0), workers=2, returns="all").values == [[], []]


def raises(worker: Worker) -> None:
    if worker.rank == 1:
        raise LookupError("no such layer")
    worker.average(np.ones(3))


def exits(worker: Worker) -> None:
    if worker.rank == 1:
        sys.exit(7)
    worker.average(np.ones(3))


def dies(worker: Worker) -> None:
    if worker.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.average(np.ones(3))


def leaves(worker: Worker) -> None:
    if worker.rank == 0:
        worker.barrier()


@pytest.mark.parametrize(
    ("work", "how", "message"),
    [
        (raises, "exception", "Rank 1 of 2 raised LookupError: .*no such layer"),
        (exits, "exit", r"Rank 1 of 2 ended itself: It called sys.exit\(7\)"),
        (dies, "signal", r"Rank 1 of 2 died: .*SIGKILL"),
        (leaves, "exception", "do not fit together: .*rank 0 waits at 'barrier'.*Every rank must do the same steps"),
    ],
)
def test_the_first_failure_is_the_cause(spark: SparkSession, work: Any, how: str, message: str) -> None:
    with pytest.raises(gap.RankError, match=message) as caught:
        gap.train(work, workers=2)
    assert caught.value.kind == how
    assert caught.value.rank == 1 or work is leaves
    if work is raises:
        assert 'raise LookupError("no such layer")' in caught.value.traceback
    assert gap.train(lambda worker: worker.gather(1), workers=2).value == [1, 1], "the next one begins anew"


def test_a_rank_that_hangs_is_named_with_its_stack(spark: SparkSession) -> None:
    def wait_for_godot(worker: Worker) -> None:
        if worker.rank == 1:
            signal.pause()
        worker.average(np.ones(3))

    began = time.monotonic()
    with pytest.raises(gap.RankError, match="Rank 1 of 2 hung") as caught:
        gap.train(wait_for_godot, workers=2, deadline=10)
    assert caught.value.kind == "aborted"
    assert "in wait_for_godot" in caught.value.traceback
    assert time.monotonic() - began < 120


def test_the_workers_of_spark_may_die(spark: SparkSession) -> None:
    def work(worker: Worker) -> None:
        if worker.rank == 1:
            zygote = psutil.Process(os.getppid())
            os.kill(zygote.ppid(), signal.SIGKILL)
        worker.average(np.ones(3))

    with pytest.raises(gap.RankError, match=r"Rank 1 of 2 vanished with its executor|Rank 1 of 2 died"):
        gap.train(work, workers=2)


def test_too_few_slots_are_said_at_once(spark: SparkSession) -> None:
    with pytest.raises(
        gap.SessionError, match=r"9 workers were asked for, and [2-8] can run at the same time .*workers=[2-8]"
    ):
        gap.train(raises, workers=9)


def test_a_rank_that_does_not_begin_is_named(spark: SparkSession, tmp_path: Path) -> None:
    begun, flag = tmp_path / "begun", tmp_path / "go"

    def occupy(_: Any) -> None:
        begun.touch()
        while not flag.exists():
            time.sleep(0.05)

    with gap.run(occupy, [1], parallel=1) as busy:
        try:
            deadline = time.monotonic() + 60
            while not begun.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with pytest.raises(gap.RankError, match=r"Ranks? [01, ]+ of 2 did not begin within 8 s.*join_timeout=") as caught:
                gap.train(lambda worker: None, workers=2, join_timeout=8)
            assert caught.value.kind == "absent"
        finally:
            flag.touch()
        assert busy.wait(60)


def test_what_cannot_be_sent_is_said_before_anything_runs(spark: SparkSession) -> None:
    lock = __import__("threading").Lock()
    with pytest.raises(gap.ConfigurationError, match="cannot be sent to tasks"):
        gap.train(lambda worker: lock, workers=2)
    with pytest.raises(gap.ConfigurationError, match="takes a function of a worker"):
        gap.train(3, workers=2)  # type: ignore[arg-type]
    with pytest.raises(gap.ConfigurationError, match="workers=0"):
        gap.train(raises, workers=0)


def counted(folder: Path, fail_at: int, workers_seen: str) -> Any:
    """Return a function that notes the ids of each batch, keeps a checkpoint after each, and dies once."""

    def work(worker: Worker) -> int:
        state = worker.restore()
        assert (state is None) == (worker.steps == 0)
        for block in worker.batches(50, epochs=2, seed=3):
            with (folder / f"{workers_seen}-{worker.steps}-{worker.rank}").open("w") as file:
                file.write(" ".join(map(str, block["id"].tolist())))
            worker.save({"steps": worker.steps, "array": np.arange(3)})
            if worker.steps == fail_at and worker.rank == 1 and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return worker.steps

    return work


def test_a_killed_training_goes_on_where_it_was(uneven: DataFrame, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    result = gap.train(counted(notes, 5, "a"), uneven, workers=2, checkpoint=tmp_path / "kept")
    assert result.attempts == 2
    assert result.value == 42
    assert seen(notes) == dict.fromkeys(range(1003), 2)


def test_a_training_goes_on_with_another_number_of_workers(uneven: DataFrame, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    shards = gap.write_shards(uneven, tmp_path / "shards")
    with pytest.raises(gap.RankError, match="died"):
        gap.train(counted(notes, 30, "a"), shards, workers=2, checkpoint=tmp_path / "kept", restarts=0)
    with pytest.raises(gap.RankError, match="the data is not what it was made with"):
        gap.train(counted(notes, 0, "c"), uneven.where("id > 5"), workers=1, checkpoint=tmp_path / "kept")
    result = gap.train(counted(notes, 0, "b"), shards, workers=1, checkpoint=tmp_path / "kept")
    assert result.value == 42
    assert seen(notes) == dict.fromkeys(range(1003), 2)


def seen(notes: Path) -> dict[int, int]:
    """Return how often each row was in a step that was kept; one that was taken again counts once."""
    steps: dict[str, list[int]] = {}
    for file in sorted(notes.glob("?-*-*")):
        run, step, rank = file.name.split("-")
        key = f"{step}-{rank}"
        if run == "b" and f"{step}-1" in steps:  # one worker takes what two did
            del steps[f"{step}-1"]
        steps[key] = [int(i) for i in file.read_text().split()]
    return dict(Counter(i for ids in steps.values() for i in ids))


def test_progress_is_seen(spark: SparkSession, uneven: DataFrame) -> None:
    def work(worker: Worker) -> None:
        for block in worker.batches(100):
            worker.report(loss=float(block["x"].mean()) if len(block["x"]) else 0.0)

    gap.train(work, uneven, workers=2, name="watched training")
    last = next(r for r in gap.runs().to_pylist() if r["name"] == "watched training")
    assert (last["kind"], last["status"], last["rows_out"]) == ("train", "done", 2)
