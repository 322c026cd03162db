"""`gap.run` where executors cannot reach the driver: each lease is a Spark job. What happens to an item is the same."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import sparkgap as gap
from sparkgap import _spark
from sparkgap.monitor import driver
from sparkgap.scheduled.ways import CHANNEL

pytestmark = pytest.mark.one_host


if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def jobs(spark: SparkSession) -> Iterator[SparkSession]:
    """A session in which leases are jobs."""
    spark.conf.set(CHANNEL, "jobs")
    yield spark
    spark.conf.unset(CHANNEL)


def square(n: int) -> int:
    return n * n


def hangs(_: Any) -> None:
    threading.Event().wait(600)


def eats_memory(_: Any) -> int:
    kept = []
    for _ in range(100):
        kept.append(np.ones(10_000_000))
        time.sleep(0.02)
    return len(kept)


def test_values_in_order(jobs: SparkSession) -> None:
    run = gap.run(square, range(1000))
    assert run.values() == [n * n for n in range(1000)]
    assert all(o.host for o in run)
    assert gap.run(square, []).values() == []


def test_each_ending_has_its_name(jobs: SparkSession) -> None:
    def work(n: int) -> Any:
        print("working on", n)
        if n == 1:
            sys.exit(3)
        if n == 2:
            import faulthandler

            faulthandler._sigsegv()
        if n == 3:
            hangs(n)
        if n == 4:
            raise KeyError("four")
        if n == 5:
            return threading.Lock()
        if n == 6:
            return eats_memory(n)
        return n

    outcomes = list(gap.run(work, range(8), on_error="collect", timeout=8.0, memory="1g"))
    assert [o.kind for o in outcomes] == ["ok", "exit", "signal", "timeout", "exception", "result", "memory", "ok"]
    assert (outcomes[1].exit_code, outcomes[0].value, outcomes[7].value) == (3, 0, 7)
    assert "in work" in str(outcomes[4].error)
    assert outcomes[7].output == "working on 7\n"


def test_the_first_failure_ends_the_run(jobs: SparkSession) -> None:
    def work(n: int) -> int:
        if n == 2:
            raise ValueError("two is too much")
        return n

    run = gap.run(work, range(100_000))
    with pytest.raises(gap.TaskError, match="Item 2: two is too much"):
        run.values()
    assert len(run) < 100_000


def test_an_item_that_fails_is_tried_again(jobs: SparkSession, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def work(n: int) -> int:
        tries = len(list(Path(folder).glob(f"{n}-*")))
        Path(folder, f"{n}-{tries}").touch()
        if tries < n:
            raise ValueError(f"try {tries}")
        return n

    outcomes = list(gap.run(work, range(4), retries=2, backoff=0.05, on_error="collect"))
    assert [o.kind for o in outcomes] == ["ok", "ok", "ok", "exception"]
    assert [o.attempts for o in outcomes] == [1, 2, 3, 3]


def test_a_worker_that_vanishes_costs_no_other_item(jobs: SparkSession, tmp_path: Path) -> None:
    """Nobody knows which item it was, until each has been tried alone."""
    folder = str(tmp_path)

    def work(n: int) -> int:
        import psutil

        if n == 20:
            Path(folder, f"try-{time.time_ns()}").touch()
            own = [p for p in psutil.Process().parents() if "pyspark" in " ".join(p.cmdline())]
            own[0].kill()  # Spark's worker, with all below it
            hangs(n)
        return n

    outcomes = list(gap.run(work, range(30), on_error="collect"))
    assert [o.index for o in outcomes if not o.ok] == [20]
    assert outcomes[20].kind == "lost"
    assert 4 <= len(list(tmp_path.iterdir())) <= 6  # the first times it may have had company


def gone(pid: int, seconds: float = 60.0) -> bool:
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_cancel_ends_the_processes(jobs: SparkSession, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def work(n: int) -> None:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(folder, "new").write_text(f"{os.getpid()} {child.pid}")
        Path(folder, "new").rename(Path(folder, f"pids-{n}"))
        hangs(n)

    run = gap.run(work, range(100), parallel=1)
    store = driver.monitor().store
    while not list(tmp_path.glob("pids-*")):
        store.wait(store.version, 0.1)
    run.cancel()
    with pytest.raises(gap.RunCancelledError):
        run.values()
    pids = [int(p) for file in tmp_path.glob("pids-*") for p in file.read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert gap.run(square, range(5)).values() == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(("count", "megabytes"), [(4, 3), (1, 70)])
def test_large_items_and_values(jobs: SparkSession, count: int, megabytes: int) -> None:
    items = [os.urandom(megabytes << 20) for _ in range(count)]
    assert gap.run(lambda item: item[::-1], items).values() == [item[::-1] for item in items]


def test_a_large_function_and_data(jobs: SparkSession) -> None:
    table = os.urandom(3 << 20)
    found = gap.run(lambda n, x: (table[n], float(x[n])), range(3), data={"x": np.arange(3.0)}).values()
    assert found == [(table[n], float(n)) for n in range(3)]


def test_an_item_that_cannot_be_sent_keeps_no_others_back(jobs: SparkSession) -> None:
    items = [threading.Lock() if n % 3 == 1 else n for n in range(12)]
    outcomes = list(gap.run(lambda n: n, items, on_error="collect"))
    assert [o.kind for o in outcomes] == ["exception" if n % 3 == 1 else "ok" for n in range(12)]


def test_a_journal_is_gone_on_with(jobs: SparkSession, tmp_path: Path) -> None:
    folder, journal = tmp_path / "ran", tmp_path / "outcomes.journal"
    folder.mkdir()
    where = str(folder)

    def work(n: int) -> int:
        Path(where, f"{n}-{time.time_ns()}").touch()
        if n == 7 and len(list(Path(where).glob("7-*"))) == 1:
            raise ValueError("not yet")
        return n * n

    assert [o.index for o in gap.run(work, range(10), journal=journal, on_error="collect") if not o.ok] == [7]
    assert gap.run(work, range(10), journal=journal).values() == [n * n for n in range(10)]
    ran = Counter(int(file.name.partition("-")[0]) for file in folder.iterdir())
    assert ran == {n: 1 + (n == 7) for n in range(10)}


def test_tasks_report(jobs: SparkSession) -> None:
    def work(n: int) -> int:
        gap.report(loss=float(n), step=n)
        return n

    run = gap.run(work, range(20))
    run.values()
    run._runner.join(30)
    with driver.monitor().store.reading(run.run) as state:
        assert state is not None
        assert len([p for s in state.series.values() if s.name == "loss" for p in s.points]) == 20
        assert state.totals().rows_out == 20


def test_joblib_and_groups(jobs: SparkSession) -> None:
    from joblib import Parallel, delayed

    with gap.parallel_backend():
        assert Parallel()(delayed(square)(n) for n in range(10)) == [n * n for n in range(10)]
    frame = jobs.createDataFrame([(n % 2, float(n)) for n in range(6)], "k int, x double")
    assert gap.run_grouped(frame, "k", lambda key, table: table.num_rows).values() == {0: 3, 1: 3}


def test_a_search_says_why_it_cannot(jobs: SparkSession) -> None:
    with pytest.raises(gap.SessionError, match="nobody can answer them"):
        gap.search(lambda trial: trial.suggest_float("x", 0, 1), trials=2)


def test_a_client_far_away(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spark, "driver_host", lambda spark: None)
    assert gap.run(square, range(5)).values() == [0, 1, 4, 9, 16]
    spark.conf.set(CHANNEL, "tcp")
    try:
        with pytest.raises(gap.SessionError, match="Set it to 'auto'"):
            gap.run(square, range(5))
        spark.conf.set(CHANNEL, "pigeons")
        with pytest.raises(gap.ConfigurationError, match="one of auto, tcp, jobs"):
            gap.run(square, range(5))
    finally:
        spark.conf.unset(CHANNEL)


def test_executors_that_turn_out_to_be_elsewhere(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As through a forwarded port: the server seems to be on this machine, and its executors are not."""
    from sparkgap.scheduled import api

    real = api.ways.over_tcp
    monkeypatch.setattr(api.ways, "over_tcp", lambda *args, host: real(*args, host="nowhere.invalid"))
    monkeypatch.setattr(_spark, "bind_address", lambda spark, host: "127.0.0.1")
    with caplog.at_level(logging.WARNING, logger="sparkgap.scheduled"):
        found = gap.run(lambda n, x: float(x[n]), range(40), data={"x": np.arange(40.0)}).values()
    assert found == [float(n) for n in range(40)]
    assert "each lease is a Spark job from now on" in caplog.text
    spark.conf.set(CHANNEL, "tcp")
    try:
        with pytest.raises(gap.RunError, match="cannot reach this process"):
            gap.run(square, range(5)).values()
    finally:
        spark.conf.unset(CHANNEL)
