"""What tasks say reaches the driver while they run, counts once, and never changes a result."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sparkgap as gap
from sparkgap.monitor import driver
from sparkgap.monitor.history import read_run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.monitor.state import RunState
    from sparkgap.monitor.store import Store


@pytest.fixture
def store() -> Store:
    return driver.monitor().store


def table(spark: SparkSession, rows: int, parts: int) -> DataFrame:
    return spark.range(0, rows, 1, parts).selectExpr("id", "float(id) AS x")


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start work in a thread; what is returned waits for its result."""
    found: list[Any] = []

    def body() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=body)
    thread.start()

    def result() -> Any:
        thread.join(120)
        assert found, "the work did not end"
        return found[0]

    return result


def until(store: Store, run: str, what: Callable[[RunState], Any], seconds: float = 60.0) -> Any:
    """Wait for news until something is true of a run."""
    deadline = time.monotonic() + seconds
    while True:
        version = store.version
        with store.reading(run) as state:
            found = what(state) if state is not None else None
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not happen: {_said(store, run)}"
        store.wait(version, 0.5)


def _said(store: Store, run: str) -> str:
    with store.reading(run) as state:
        if state is None:
            return "nothing is known of the run"
        tasks = [(a.task.stage, a.task.partition, a.task.attempt, a.status) for a in state.attempts.values()]
        return f"{state.status()}, stages {state.stages}, attempts {tasks}, open {store.open_stages()}"


def waits_for(path: str) -> Callable[[Any], dict[str, Any]]:
    """A model that reports, and goes on only when a file is there: the test decides when tasks end."""

    def model(x: Any) -> dict[str, Any]:
        import logging
        import os
        import time

        import numpy as np

        import sparkgap as gap

        gap.report(first=float(x[0]), step=1)
        gap.show("inputs", np.asarray(x), kind="histogram")
        print("printed in a task")
        logging.getLogger("users.own").info("logged in a task")
        deadline = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.02)
        return {"y": x + 1}

    return model


@pytest.fixture(params=["tcp", "folder"])
def way(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    """Events come over TCP, or over a folder as where executors cannot reach the client."""
    if request.param == "folder":
        spark.conf.set(driver.FOLDER, str(tmp_path / "shared"))
    yield request.param
    spark.conf.unset(driver.FOLDER)


def test_a_running_task_is_seen(spark: SparkSession, store: Store, way: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    out = gap.transform(table(spark, 1000, 2), held(str(go)), keep=["id"], batch_size=100)
    run = gap.summary(out).run
    result = in_background(lambda: out.toArrow())

    def seen(state: RunState) -> bool:
        texts = {line.text for line in state.logs}
        return (
            state.status() == "running"
            and state.task_count() == 2  # Connect tells of stages every two seconds only: of a shorter job not at all
            and any(s.name == "first" for s in state.series.values())
            and {"printed in a task", "logged in a task"} <= texts
            and any(a.name == "inputs" and a.kind == "histogram" for a in state.artifacts)
            and all(a.stats.seconds.get("model", 0) > 0 for a in state.counted())
        )

    until(store, run, seen)
    assert not go.exists()  # all of that was seen while the tasks were held back
    go.touch()
    assert result().num_rows == 1000
    summary = gap.summary(out)
    assert (summary.rows_in, summary.rows_out, summary.tasks) == (1000, 1000, 2)
    assert set(summary.dropped or ()) <= {"artifact"}  # at most four things a second are shown
    until(store, run, lambda state: state.status() == "done" and state.task_count() == 2)
    assert run in gap.runs()["run"].to_pylist()


def test_a_failure_is_told_with_its_traceback(spark: SparkSession, store: Store) -> None:
    def model(x):
        if (x > 500).any():
            raise ValueError("five hundred is too much")
        return {"y": x}

    out = gap.transform(table(spark, 1000, 2), model, keep=["id"], batch_size=100)
    run = gap.summary(out).run
    with pytest.raises(Exception, match="five hundred is too much"):
        out.toArrow()
    failure = until(store, run, lambda state: state.failures and state.failures[0])
    assert failure.error == "RowError"
    assert "five hundred is too much" in failure.message
    assert "in model" in failure.traceback
    until(store, run, lambda state: state.status() == "failed")


def test_totals_are_the_truth_where_tasks_are_killed(spark: SparkSession, kind: str, store: Store, tmp_path: Path) -> None:
    if kind != "cluster":
        pytest.skip("a local master does not try a task again")
    folder = str(tmp_path)

    def model(x):
        import os
        import signal
        from pathlib import Path

        from pyspark import TaskContext

        context = TaskContext.get()
        if context is None:  # on the driver, to find the outputs
            return {"y": x}
        partition = context.partitionId()
        mark = Path(folder) / f"killed-{partition}"
        if partition % 5 == 0 and x[0] % 1000 >= 500 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": x}

    out = gap.transform(table(spark, 10_000, 10), model, keep=["id"], batch_size=100)
    run = gap.summary(out).run
    assert out.toArrow().num_rows == 10_000
    assert len(list(tmp_path.glob("killed-*"))) == 2
    until(store, run, lambda state: state.retries() == 2)
    summary = gap.summary(out)
    assert (summary.rows_in, summary.rows_out, summary.tasks, summary.retries) == (10_000, 10_000, 10, 2)
    history = store.history
    assert history is not None
    again = read_run(history.folder / run)
    assert again.totals().rows_out == 10_000


def test_a_hub_that_dies_changes_nothing(spark: SparkSession, kind: str, store: Store, tmp_path: Path) -> None:
    go = tmp_path / "go"
    out = gap.transform(table(spark, 200, 2), held(str(go)), keep=["id"], batch_size=100)
    run = gap.summary(out).run
    result = in_background(lambda: out.toArrow())
    until(store, run, lambda state: len(state.counted()) == 2)
    driver.monitor().close()
    go.touch()
    assert result().num_rows == 200
    after = gap.transform(table(spark, 200, 2), lambda x: {"y": x}, keep=["id"])
    assert after.toArrow().num_rows == 200
    assert gap.summary(after).rows_out == 200  # the next run has a hub again
    if kind != "connect":  # which tells of stages every two seconds only
        until(store, gap.summary(after).run, lambda state: state.task_count() == 2)


def held(path: str) -> gap.Model:
    return gap.load(
        waits_for(path),
        signature=gap.Signature((gap.TensorSpec("x", "float32", ()),), (gap.TensorSpec("y", "float32", ()),)),
    )


def test_off_means_off(spark: SparkSession) -> None:
    spark.conf.set(driver.ENABLED, "false")
    try:
        out = gap.transform(table(spark, 10, 1), lambda x: {"y": x}, keep=["id"])
    finally:
        spark.conf.unset(driver.ENABLED)
    assert out.count() == 10
    assert "monitor is off" in str(gap.summary(out))


@pytest.mark.parametrize(("key", "value"), [(driver.PORT, "many"), (driver.CERTIFICATE, "/nowhere.pem")])
def test_wrong_settings_are_named(spark: SparkSession, key: str, value: str) -> None:
    spark.conf.set(key, value)
    try:
        with pytest.raises(gap.ConfigurationError, match=key):
            gap.transform(table(spark, 10, 1), lambda x: {"y": x}, keep=["id"])
    finally:
        spark.conf.unset(key)


def test_a_limit_is_no_failure(spark: SparkSession, store: Store) -> None:
    out = gap.transform(table(spark, 100_000, 2), lambda x: {"y": x}, keep=["id"], batch_size=100)
    run = gap.summary(out).run
    assert len(out.limit(5).collect()) == 5
    with store.reading(run) as state:
        assert state is not None
        assert state.failure_count == 0


def test_a_sample_shows_rows_pictures_and_layers(spark: SparkSession, store: Store, tmp_path: Path) -> None:
    import torch
    from PIL import Image

    for n in range(4):
        Image.new("RGB", (20, 10), (60 * n, 0, 0)).save(tmp_path / f"{n}.png")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 6 * 6, 5))
    out = gap.transform(
        gap.images(str(tmp_path)),
        net,
        inputs=[gap.image("content", size=(8, 8))],
        outputs=["scores"],
        sample=gap.Sampling(2, layers=("0",)),
    )
    run = gap.summary(out).run
    assert out.count() == 4
    with store.reading(run) as state:
        assert state is not None
        shown = {a.name: a for a in state.artifacts}
        logs = [line.text for line in state.logs]
    kinds = {name.partition(":")[0]: a.kind for name, a in shown.items() if "rows" not in name}
    assert kinds == {"sample": "image", "layer": "histogram"}, logs
    table_shown = json.loads(shown["sample: rows"].data)
    assert table_shown["columns"] == ["path", "scores"]
    assert table_shown["rows"][0][1].startswith("highest [")
    assert json.loads(shown["layer: 0"].data)["shape"][1:] == [2, 6, 6]


def test_a_sample_that_cannot_be_shown_costs_nothing(spark: SparkSession, store: Store) -> None:
    out = gap.transform(table(spark, 10, 1), lambda x: {"y": x}, keep=["id"], sample=gap.Sampling(2, layers=("fc",)))
    run = gap.summary(out).run
    assert out.count() == 10
    with store.reading(run) as state:
        assert state is not None
        assert any("do not show their layers" in line.text for line in state.logs)
        assert any(a.name == "sample: rows" for a in state.artifacts)


def test_column_functions_tell_too_each_for_itself(spark: SparkSession, store: Store) -> None:
    def double(x):
        gap.report(doubled=float(x[0]))
        print("double")
        return {"y": 2 * x}

    def triple(x):
        gap.report(tripled=float(x[0]))
        print("triple")
        return {"z": 3 * x}

    df = table(spark, 1000, 2)
    functions = [gap.udf(gap.load(f), like=df) for f in (double, triple)]
    two, three = (f("x").alias(n) for f, n in zip(functions, "yz", strict=True))
    got = df.select("id", two, three).orderBy("id").collect()
    assert [(r.y, r.z) for r in got] == [(2.0 * n, 3.0 * n) for n in range(1000)]
    for function, name, word in zip(functions, ("doubled", "tripled"), ("double", "triple"), strict=True):
        summary = gap.summary(function)
        assert (summary.rows_in, summary.rows_out, summary.tasks) == (1000, 1000, 2)
        with store.reading(summary.run) as state:
            assert state is not None
            assert {s.name for s in state.series.values()} == {name}
            assert {line.text for line in state.logs} == {word}
            assert state.kind == "udf"


def test_where_tasks_have_no_way_reports_do_no_harm(spark: SparkSession) -> None:
    def model(x):
        gap.report(a=1.0)
        gap.show("b", x)
        return {"y": 2 * x}

    spark.conf.set(driver.ENABLED, "false")
    try:
        out = gap.transform(table(spark, 10, 1), model, keep=["id"])
    finally:
        spark.conf.unset(driver.ENABLED)
    assert [r.y for r in out.orderBy("id").collect()] == [2.0 * n for n in range(10)]


def test_report_and_show_work_without_spark(store: Store) -> None:
    gap.report(loss=0.5, step=1)
    gap.show("words", "some text")
    with store.reading("local") as state:
        assert state is not None
        assert any(s.name == "loss" for s in state.series.values())
        assert state.artifacts[-1].data == b"some text"
