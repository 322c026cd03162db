"""What breaks while many workers train one model: each fault is told, or got over, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap import _spark
from sparkgap.cooperative.checkpoints import Checkpoints
from sparkgap.cooperative.gang import Crew, Gang
from sparkgap.cooperative.rank import RankPlan, meet, processes
from sparkgap.cooperative.worker import Worker
from sparkgap.scheduled.resources import placement

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS, BATCH, EPOCHS = 403, 50, 2
STEPS = 2 * 9
MARK = "SPARKGAP_TEST_MARK"
NOWHERE = "192.0.2.1"  # for documentation: no machine has it


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took; nothing is asserted about it."""
    began = time.monotonic()
    yield
    print(f"TIME {what}: {time.monotonic() - began:.1f} s")


def until(done: Callable[[], object], problem: Callable[[], str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, problem()
        time.sleep(0.05)  # between two looks at files or /proc, which cannot wake anybody


class Traces:
    """What ranks leave in a folder while they work, and the processes by which they can be known.

    Args:
        folder: of the test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder / "traces")
        os.mkdir(self.folder)

    def here(self, rank: int) -> None:
        """In a rank: note its process, and begin another one that would outlive it."""
        child = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: self.folder}, start_new_session=True)
        Path(self.folder, f"pids-{rank}-{os.getpid()}").write_text(f"{os.getpid()} {child.pid}")

    def step(self, worker: Worker, ids: Any) -> None:
        """In a rank: note the rows of a step; one that is taken again replaces itself."""
        file = Path(self.folder, f"step-{worker.steps}-{worker.rank}")
        file.with_suffix(".new").write_text(" ".join(map(str, ids.tolist())))
        file.with_suffix(".new").rename(file)

    def once(self, name: str) -> bool:
        """In a rank: whether this is the first time."""
        try:
            os.close(os.open(Path(self.folder, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def rows(self) -> dict[int, int]:
        """Return how often each row was in a step."""
        files = [file for file in Path(self.folder).glob("step-*") if file.suffix != ".new"]
        return dict(Counter(int(i) for file in files for i in file.read_text().split()))

    def running(self) -> list[psutil.Process]:
        """Return what is left of ranks, and of what they have begun."""
        pids = {int(pid) for file in Path(self.folder).glob("pids-*") for pid in file.read_text().split()}
        return [p for p in psutil.process_iter(["environ"]) if p.pid in pids or marked(p, self.folder)]

    def all_gone(self) -> None:
        assert list(Path(self.folder).glob("pids-*")), "no rank has begun"
        until(lambda: not self.running(), lambda: f"still there: {self.running()}")


def marked(process: psutil.Process, mark: str) -> bool:
    return (process.info["environ"] or {}).get(MARK) == mark


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    return Traces(tmp_path)


def steps(traces: Traces, fault: Callable[[Worker], None], at: int = 5) -> Callable[[Worker], int]:
    """Return a training that keeps a checkpoint after each step, and meets a fault once."""

    def work(worker: Worker) -> int:
        traces.here(worker.rank)
        worker.restore()
        for block in worker.batches(BATCH, epochs=EPOCHS, seed=3):
            traces.step(worker, block["id"])
            worker.save({"array": np.arange(1000.0)})
            if worker.steps == at and worker.rank == 1 and traces.once("fault"):
                fault(worker)
            worker.average(np.ones(3))
        return worker.steps

    return work


def above(what: str) -> psutil.Process:
    """Return the process of Spark's in which a rank is: its Python worker, or its executor."""
    worker = psutil.Process(os.getppid()).parent()  # above the process that forks ranks
    assert worker is not None
    if what == "worker":
        return worker
    return next(p for p in worker.parents() if any("CoarseGrainedExecutorBackend" in part for part in p.cmdline()))


@pytest.mark.parametrize("what", ["worker", "executor"])
def test_what_carries_a_rank_may_be_killed(spark: SparkSession, kind: str, what: str, traces: Traces, tmp_path: Path) -> None:
    if (what == "executor") != (kind == "cluster"):
        pytest.skip("executors are processes of their own on a cluster only, and workers are the same everywhere")

    def killed(worker: Worker) -> None:
        above(what).kill()
        signal.pause()

    def at_once(worker: Worker) -> None:
        traces.here(worker.rank)
        worker.barrier()
        if worker.rank == 1:
            killed(worker)
        worker.average(np.ones(3))

    with timed(f"{what} killed, told"), pytest.raises(gap.RankError, match="Rank 1 of 2 vanished with its executor") as caught:
        gap.train(at_once, workers=2)
    assert caught.value.kind == "lost"
    traces.all_gone()
    shards = gap.write_shards(spark.range(ROWS), tmp_path / "shards")
    with timed(f"{what} killed, got over"):
        result = gap.train(steps(traces, killed), shards, workers=2, checkpoint=tmp_path / "kept", join_timeout=200)
    assert (result.value, result.attempts) == (STEPS, 2)
    assert traces.rows() == dict.fromkeys(range(ROWS), EPOCHS)
    traces.all_gone()


@pytest.mark.parametrize("how", ["round", "collective", "computing"])
def test_a_rank_that_hangs_is_named_wherever_others_wait(spark: SparkSession, kind: str, how: str, traces: Traces) -> None:
    if kind != "classic":
        pytest.skip("where ranks run makes no difference to how they wait")

    def stuck_here(worker: Worker) -> None:
        traces.here(worker.rank)
        if worker.rank == 1:
            while how == "computing":
                pass
            signal.pause()
        worker.barrier() if how == "round" else worker.average(np.ones(3))

    with timed(f"hangs, others in a {how}, deadline 10 s"), pytest.raises(gap.RankError, match="Rank 1 of 2 hung") as caught:
        gap.train(stuck_here, workers=2, deadline=10)
    assert (caught.value.rank, caught.value.kind) == (1, "aborted")
    assert "in stuck_here" in caught.value.traceback
    traces.all_gone()


def test_a_driver_that_cannot_be_reached_is_told_with_its_address(
    spark: SparkSession, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "classic" or sys.platform != "linux":
        pytest.skip("needs a second address of this machine; once is enough")
    monkeypatch.setattr(_spark, "driver_host", lambda spark: "127.0.0.2")
    monkeypatch.setattr(_spark, "bind_address", lambda spark, host: "127.0.0.1")
    with (
        timed("wrong address of the driver"),
        pytest.raises(gap.RunError, match=r"executors cannot reach this process \(127\.0\.0\.2:\d+: .*spark\.driver\.host"),
    ):
        gap.train(lambda worker: None, workers=2)


def test_a_peer_that_cannot_be_reached_is_told_with_its_address(spark: SparkSession, kind: str, traces: Traces) -> None:
    if kind != "classic":
        pytest.skip("once is enough")
    plan = RankPlan(2, "127.0.0.1", 5, 100, "gloo")

    def goes_astray(rank: int) -> None:
        traces.here(rank)
        place = meet(rank, plan)
        with processes(replace(place, master=NOWHERE) if rank else place, plan):
            raise AssertionError("ranks have met at two places")

    with (
        timed("wrong address of rank 0"),
        pytest.raises(
            gap.RankError,
            match=r"Rank 1 of 2 raised .*SessionError: Rank 1 on .* cannot reach rank 0 at 192\.0\.2\.1:\d+: .*firewalls",
        ) as caught,
    ):
        Gang(Crew(2, placement(spark, cpus=None, gpus=None, parallel=None), 100), goes_astray).run(spark)
    assert caught.value.rank == 1
    traces.all_gone()


def test_a_full_disk_is_told_and_what_was_kept_stays_whole(
    spark: SparkSession, kind: str, traces: Traces, tmp_path: Path
) -> None:
    if kind != "classic":
        pytest.skip("files are written the same way everywhere")
    shards = gap.write_shards(spark.range(ROWS), tmp_path / "shards")

    def work(worker: Worker) -> int:
        traces.here(worker.rank)
        worker.restore()
        for block in worker.batches(BATCH, epochs=EPOCHS, seed=3):
            traces.step(worker, block["id"])
            if worker.rank == 0 and worker.steps == 5 and traces.once("full"):  # rank 0 is the one that writes
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails, as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            worker.save({"array": np.arange(10_000.0)})
        return worker.steps

    full = rf"Rank 0 of 2 raised .*DataError: Checkpoint .*{tmp_path}/kept/step-0+5-.* cannot be written: .*no space left"
    with timed("disk full"), pytest.raises(gap.RankError, match=full):
        gap.train(work, shards, workers=2, checkpoint=tmp_path / "kept", restarts=2)
    traces.all_gone()
    kept = Checkpoints(tmp_path / "kept")
    assert kept.steps() == [2, 3, 4]
    assert not [file for file in (tmp_path / "kept").iterdir() if file.suffix == ".tmp"]
    found = kept.latest()
    assert found is not None
    assert found.state["state"]["array"].tolist() == list(range(10_000))
    newest = max((tmp_path / "kept").glob("step-*"))
    os.truncate(newest, newest.stat().st_size - 100)  # and the last one is damaged later: the one before takes its place
    assert gap.train(work, shards, workers=2, checkpoint=tmp_path / "kept").value == STEPS
    assert traces.rows() == dict.fromkeys(range(ROWS), EPOCHS)


def test_a_truncated_shard_is_named(spark: SparkSession, kind: str, tmp_path: Path) -> None:
    if kind != "classic":
        pytest.skip("files are read the same way everywhere")
    shards = gap.write_shards(spark.range(0, ROWS, 1, 2), tmp_path / "shards")
    damaged = max((tmp_path / "shards").rglob("*.arrow"))
    os.truncate(damaged, damaged.stat().st_size // 2)

    def work(worker: Worker) -> None:
        for _ in worker.batches(BATCH):
            worker.average(np.ones(3))

    with timed("truncated shard"), pytest.raises((gap.RankError, gap.DataError), match=damaged.name):
        gap.train(work, shards, workers=2)


DRIVER = """
import os, sys, time
from pathlib import Path
import sparkgap as gap

folder = Path(sys.argv[1])

def work(worker):
    worker.restore()
    for block in worker.batches(%d, epochs=%d, seed=3):
        (folder / f"step-{worker.steps}-{worker.rank}").write_text(" ".join(map(str, block["id"].tolist())))
        worker.save({"steps": worker.steps})
        if worker.steps == 5:
            (folder / f"midway-{worker.rank}").touch()
            while not (folder / "go").exists():
                time.sleep(0.05)
    return worker.steps

spark = gap.session("local[2]", conf={"spark.ui.enabled": "false", "spark.driver.memory": "1g"})
print(gap.train(work, str(folder / "shards"), workers=2, checkpoint=folder / "kept").value)
spark.stop()
"""


def test_the_driver_may_be_killed(spark: SparkSession, kind: str, traces: Traces) -> None:
    if kind != "classic":
        pytest.skip("the test makes its own session; once is enough")
    folder, environment = Path(traces.folder), {**os.environ, MARK: traces.folder}
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(DRIVER % (BATCH, EPOCHS)))
    gap.write_shards(spark.range(ROWS), folder / "shards")
    first = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)
    try:
        until(lambda: len(list(folder.glob("midway-*"))) == 2 or first.poll() is not None, lambda: "it did not begin")
        assert len(traces.running()) > 4, "the mark is on all of its processes"
    finally:
        first.kill()
        first.wait()
    with timed("driver killed, all gone"):
        until(lambda: not traces.running(), lambda: f"still there: {traces.running()}")
    (folder / "go").touch()
    second = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert second.stdout.split() == [str(STEPS)], second.stderr
    assert traces.rows() == dict.fromkeys(range(ROWS), EPOCHS)
    assert not traces.running()


def test_weights_are_the_same_bits_after_a_kill(spark: SparkSession, kind: str, traces: Traces, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if kind == "connect":
        pytest.skip("the same as on classic Spark")
    x = np.random.default_rng(0).normal(size=(300, 2)).astype("f4")
    table = pa.table({"x": pa.array(list(x)), "y": pa.array(x @ np.array([3.0, 1.5], "f4"))})
    shards = gap.write_shards(spark.createDataFrame(table), tmp_path / "shards")

    def dies(figures: Any) -> None:
        traces.here(0)
        if figures["epoch"] == 1 and traces.once("died"):
            os.kill(os.getpid(), signal.SIGKILL)

    def digest(**options: Any) -> tuple[str, int]:
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
        model = gap.fit(
            net, shards, inputs=["x"], label="y", loss="mse", optimizer="adam", batch_size=32, epochs=3, workers=2, **options
        )
        weights = b"".join(p.detach().numpy().tobytes() for p in model.trained.parameters())
        return hashlib.sha256(weights).hexdigest(), model.attempts

    whole = digest()
    killed = digest(checkpoint=tmp_path / "kept", checkpoint_every=4, on_epoch=dies)
    assert (whole[1], killed[1]) == (1, 2)
    assert killed[0] == whole[0]
    traces.all_gone()


def test_a_rank_of_a_black_box_that_hangs_is_named_and_not_tried_again(spark: SparkSession, kind: str, traces: Traces) -> None:
    if kind != "cluster":
        pytest.skip("executors keep what they know apart on a cluster")

    def stuck_here(worker: Worker, rows: Any) -> Iterator[Any]:
        traces.here(worker.rank)
        if worker.rank == 1:
            signal.pause()
        worker.gather(0)
        yield {"x": [1]}

    with timed("hangs in gap.cooperate, deadline 5 s"), pytest.raises(Exception, match="Rank 1 of 2 hung") as caught:
        gap.cooperate(spark.range(4), stuck_here, "x int", workers=2, backend=None, deadline=5).collect()
    assert "in stuck_here" in str(caught.value)
    assert len(list(Path(traces.folder).glob("pids-*"))) == 2
    traces.all_gone()


def test_a_black_box_whose_rank_was_killed_begins_anew(spark: SparkSession, kind: str, traces: Traces) -> None:
    if kind != "classic":
        pytest.skip("a process is killed the same way everywhere")

    def killed_once(worker: Worker, rows: Any) -> Iterator[Any]:
        traces.here(worker.rank)
        mine = [i for batch in rows for i in batch["id"].to_pylist()]
        worker.barrier()
        if worker.rank == 1 and traces.once("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        worker.barrier()
        yield {"id": mine}

    with timed("killed in gap.cooperate, got over"):
        made = gap.cooperate(spark.range(100), killed_once, "id long", workers=2, backend=None).toArrow()
    assert sorted(made["id"].to_pylist()) == list(range(100))
    traces.all_gone()
