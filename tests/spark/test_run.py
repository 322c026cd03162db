"""`gap.run` on real Spark: every item gets one outcome, whatever its task does to its process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap.monitor import driver

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def square(n: int) -> int:
    return n * n


def test_values_in_order(spark: SparkSession) -> None:
    assert gap.run(square, range(1000)).values() == [n * n for n in range(1000)]


def test_nothing_to_do(spark: SparkSession) -> None:
    assert gap.run(square, []).values() == []


def test_an_iterable_is_read_as_it_is_needed(spark: SparkSession) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for n in range(10_000):
            taken.append(n)
            yield n

    def slow(n: int) -> int:
        time.sleep(0.05)
        return n

    with gap.run(slow, numbers()) as run:
        first = next(iter(run))
        assert (first.index, first.item, first.value) == (0, 0, 0)
        run.cancel()
    assert len(taken) < 1000


def test_outcomes_tell_what_happened(spark: SparkSession) -> None:
    def work(n: int) -> np.ndarray:
        print("working on", n)
        if n == 3:
            raise KeyError("three")
        return np.full(3, n)

    run = gap.run(work, list(range(5)), on_error="collect")
    outcomes = list(run)
    assert [o.index for o in outcomes] == list(range(5))
    assert [o.ok for o in outcomes] == [True, True, True, False, True]
    assert np.array_equal(outcomes[4].value, [4, 4, 4])
    bad = outcomes[3]
    assert (bad.kind, bad.value, bad.item, bad.attempts) == ("exception", None, 3, 1)
    assert isinstance(bad.error, gap.TaskError)
    assert bad.error.error == "KeyError"
    assert "in work" in bad.error.traceback
    assert all(o.output == f"working on {o.index}\n" for o in outcomes[:3])
    assert all(o.peak_rss > 1 << 20 and o.host and o.started > 1e9 for o in outcomes)
    assert sorted(o.index for o in run.as_completed()) == list(range(5))
    assert len(run) == 5


def test_the_first_failure_ends_the_run(spark: SparkSession) -> None:
    def work(n: int) -> int:
        if n == 2:
            raise ValueError("two is too much")
        time.sleep(0.01)
        return n

    run = gap.run(work, range(10_000))
    with pytest.raises(gap.TaskError, match="Item 2: two is too much") as caught:
        run.values()
    assert "in work" in str(caught.value)
    assert len(run) < 10_000


def exits(_: Any) -> None:
    sys.exit(3)


def ends_hard(_: Any) -> None:
    os._exit(4)


def segfaults(_: Any) -> None:
    import faulthandler

    faulthandler._sigsegv()


def is_killed(_: Any) -> None:
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def hangs(_: Any) -> None:
    threading.Event().wait(600)


def eats_memory(_: Any) -> int:
    kept = []
    for _ in range(100):
        kept.append(np.ones(10_000_000))
        time.sleep(0.02)
    return len(kept)


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("never")


def raises_unpicklable(_: Any) -> None:
    raise Unpicklable("something odd")


def gives_a_lock(_: Any) -> Any:
    return threading.Lock()


def gives_much(_: Any) -> Any:
    return bytes(300 << 20)


DEATHS = {
    "exit": (exits, {}, "3"),
    "hard exit": (ends_hard, {}, "4"),
    "segfault": (segfaults, {}, "SIGSEGV"),
    "killed": (is_killed, {}, "SIGKILL"),
    "timeout": (hangs, {"timeout": 1.0}, "1"),
    "memory": (eats_memory, {"memory": "1g"}, "1"),
    "exception that cannot be pickled": (raises_unpicklable, {}, "something odd"),
    "value that cannot be pickled": (gives_a_lock, {}, "pickle"),
    "enormous value": (gives_much, {}, "268"),
}
KINDS = ["exit", "exit", "signal", "signal", "timeout", "memory", "exception", "result", "result"]


@pytest.mark.parametrize(("name", "ending"), list(zip(DEATHS, KINDS, strict=True)))
@pytest.mark.parametrize("fresh", [False, True])
def test_each_death_has_a_name(spark: SparkSession, name: str, ending: str, fresh: bool) -> None:
    function, options, words = DEATHS[name]

    def work(n: int) -> Any:
        return function(n) if n == 1 else n

    outcomes = list(gap.run(work, range(4), on_error="collect", fresh=fresh, **options))
    assert [o.kind for o in outcomes] == ["ok", ending, "ok", "ok"]
    assert [o.value for o in outcomes if o.ok] == [0, 2, 3]
    assert words in str(outcomes[1].error), str(outcomes[1].error)


def test_an_item_that_fails_is_tried_again(spark: SparkSession, tmp_path: Path) -> None:
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


def alive_with(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SPARKGAP_TEST_MARK") == mark:
            found.append(process)
    return found


def test_cancel_ends_the_processes(spark: SparkSession, tmp_path: Path) -> None:
    folder, mark = str(tmp_path), f"cancel-{tmp_path}"

    def work(n: int) -> None:
        child = subprocess.Popen(["sleep", "600"], env=os.environ | {"SPARKGAP_TEST_MARK": mark}, start_new_session=True)
        Path(folder, f"{n}").write_text(f"{os.getpid()} {child.pid}")
        threading.Event().wait(600)

    run = gap.run(work, range(100))
    store = driver.monitor().store
    while len(list(tmp_path.iterdir())) < 2:
        store.wait(store.version, 0.1)
    run.cancel()
    pids = [int(p) for file in tmp_path.iterdir() for p in file.read_text().split()]
    assert not [p for p in pids if psutil.pid_exists(p)]
    assert not alive_with(mark)
    with pytest.raises(gap.RunCancelledError):
        run.values()


def test_a_journal_is_gone_on_with(spark: SparkSession, tmp_path: Path) -> None:
    folder, journal = tmp_path / "ran", tmp_path / "outcomes.journal"
    folder.mkdir()
    where = str(folder)

    def work(item: dict[str, Any]) -> int:
        Path(where, f"{item['n']}-{time.time_ns()}").touch()
        if item["n"] == 7 and len(list(Path(where).glob("7-*"))) == 1:
            raise ValueError("not yet")
        return int(item["n"]) ** 2

    items = [{"n": n} for n in range(10)]
    with pytest.raises(gap.TaskError, match="not yet"):
        gap.run(work, items, journal=journal, parallel=1).values()
    again = gap.run(work, items[::-1], journal=journal)
    assert again.values() == [n * n for n in reversed(range(10))]
    ran = Counter(int(file.name.partition("-")[0]) for file in folder.iterdir())
    assert [ran[n] for n in range(8)] == [1] * 7 + [2]


def test_outcomes_as_a_table(spark: SparkSession) -> None:
    def work(n: int) -> float:
        if n == 2:
            raise ValueError("no")
        return n / 2

    run = gap.run(work, range(4), on_error="collect")
    table = run.to_arrow()
    assert table["value"].to_pylist() == [0.0, 0.5, None, 1.5]
    assert table["value"].type == pa.float64()
    frame = run.to_df()
    assert [r.kind for r in frame.orderBy("index").collect()] == ["ok", "ok", "exception", "ok"]


def test_reports_of_tasks_are_seen(spark: SparkSession) -> None:
    def work(n: int) -> int:
        gap.report(loss=float(n), step=n)
        print("hello from", n)
        return n

    run = gap.run(work, range(20))
    run.values()
    run._runner.join(30)
    with driver.monitor().store.reading(run.run) as state:
        assert state is not None
        assert (state.kind, state.name.rpartition(".")[2]) == ("run", "work")
        points = [p for s in state.series.values() if s.name == "loss" for p in s.points]
        assert len(points) == 20
        assert {f"hello from {n}" for n in range(20)} <= {line.text for line in state.logs}
        assert state.totals().rows_out == 20
        assert state.status() == "done"


def test_a_function_of_main(spark: SparkSession, kind: str, tmp_path: Path) -> None:
    if kind != "classic":
        pytest.skip("one kind is enough for a process of its own")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sparkgap as gap
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        def work(p):
            return Point(p.x + 1)

        spark = gap.session("local[2]")
        print(gap.run(work, [Point(1), Point(2)]).values() == [Point(2), Point(3)])
        spark.stop()
        """)
    )
    got = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert got.stdout.strip() == "True", got.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "seconds above 0"),
        ({"retries": -1}, "neither may be below 0"),
        ({"on_error": "skip"}, "'raise' or 'collect'"),
        ({"memory": "2x"}, "like '2g'"),
        ({"parallel": 0}, "at least one task"),
        ({"cpus": 0}, "from 1"),
    ],
)
def test_wrong_options_are_named(spark: SparkSession, options: dict[str, Any], words: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=words):
        gap.run(square, range(3), **options)


def test_a_function_that_cannot_be_sent(spark: SparkSession) -> None:
    lock = threading.Lock()
    with pytest.raises(gap.ConfigurationError, match="inside the function"):
        gap.run(lambda n: lock, range(3))


def test_a_task_has_the_cores_it_asked_for(spark: SparkSession, kind: str) -> None:
    def work(n: int) -> tuple[str, float, float]:
        began = time.time()
        time.sleep(0.05)
        return os.environ["OMP_NUM_THREADS"], began, time.time()

    if kind == "cluster":  # each executor has one core
        assert {threads for threads, _, _ in gap.run(work, range(4), cpus=1).values()} == {"1"}
        return
    found = gap.run(work, range(4), cpus=2).values()
    assert {threads for threads, _, _ in found} == {"2"}
    spans = sorted((began, ended) for _, began, ended in found)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans)), "two at the same time"


def test_data_is_put_once_on_a_node_and_shared(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.txt").write_text("a b c")

    def work(n: int, x: np.ndarray, table: pa.Table, folder: Path) -> Any:
        mapped = isinstance(x, np.memmap) and not x.flags.writeable
        return mapped, float(x[n].sum()), table["name"][n].as_py(), (folder / "vocabulary.txt").read_text()

    x = np.arange(12.0).reshape(4, 3)
    frame = spark.createDataFrame([(f"row {n}",) for n in range(4)], "name string").coalesce(1)
    found = gap.run(work, range(4), data={"x": x, "table": frame, "folder": tmp_path}).values()
    assert found == [(True, float(x[n].sum()), f"row {n}", "a b c") for n in range(4)]


def test_data_that_the_function_does_not_take(spark: SparkSession) -> None:
    with pytest.raises(gap.ConfigurationError, match="y, which the function does not take"):
        gap.run(lambda n, x: n, range(3), data={"x": np.zeros(3), "y": np.zeros(3)})
    with pytest.raises(gap.ConfigurationError, match="cannot be placed"):
        gap.run(lambda n, x: n, range(3), data={"x": object()})


def test_a_run_that_nobody_holds_leaves_nothing_open(spark: SparkSession) -> None:
    gap.run(square, range(10)).values()
    me = psutil.Process()
    before = me.num_fds()
    for _ in range(5):
        gap.run(square, range(10)).values()
    dropped = gap.run(hangs, range(10))
    runner = dropped._runner
    del dropped
    gc.collect()
    assert runner.join(60)
    assert isinstance(runner.error, gap.RunCancelledError)
    assert me.num_fds() <= before + 2


@pytest.mark.parametrize("retries", [0, 1])
def test_items_that_cannot_be_sent_keep_no_others_back(spark: SparkSession, retries: int) -> None:
    items = [threading.Lock() if n % 3 == 1 else n for n in range(60)]
    outcomes = list(gap.run(lambda n: n, items, retries=retries, backoff=0.01, on_error="collect"))
    assert [o.kind for o in outcomes] == ["exception" if n % 3 == 1 else "ok" for n in range(60)]
    assert "cannot be sent to a task" in str(outcomes[1].error)


def test_a_run_over_tls(spark: SparkSession, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "driver.pem"), str(tmp_path / "driver.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=driver",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    spark.conf.set(driver.CERTIFICATE, certificate)
    spark.conf.set(driver.KEY, key)
    try:
        run = gap.run(lambda n: bytes(n), [1, 3 << 20, 5])
        assert run._runner._way.desk.certificate.startswith("-----BEGIN CERTIFICATE")
        assert [len(v) for v in run.values()] == [1, 3 << 20, 5]
    finally:
        spark.conf.unset(driver.CERTIFICATE)
        spark.conf.unset(driver.KEY)
