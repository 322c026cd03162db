"""A training is seen while it runs: loss, rows a second, and for each rank what it does and how long it waits for data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap.cooperative.worker import Worker
from sparkgap.monitor.driver import monitor
from sparkgap.monitor.state import RunState
from sparkgap.monitor.terminal import Line
from sparkgap.monitor.web.view import run_view

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LIMIT = 120.0


@pytest.fixture(autouse=True)
def _not_by_connect(kind: str) -> None:
    if kind == "connect":
        pytest.skip("ranks tell in the same way, whatever the kind of session")


def until(name: str, what: Callable[[RunState], bool]) -> str:
    """Wait until something is true of the run of this name; returns its id."""
    store = monitor().store
    deadline = time.monotonic() + LIMIT
    while True:
        version = store.version
        told = []
        for run in store.runs():
            with store.reading(run) as state:
                if state is not None and name in state.name:
                    if what(state):
                        return run
                    told.append((state.status(), [r.latest for r in state.ranks.all()], list(state.series)))
        assert time.monotonic() < deadline, f"it did not happen: {told}"
        store.wait(version, 0.5)


def waiting_for(path: str) -> None:
    """Hold a rank back until a file is there."""
    deadline = time.monotonic() + LIMIT
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(LIMIT)
        assert found, "it has not ended well"
        return found[0]

    return result


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    """The file that lets held ranks go on, whatever becomes of the test."""
    yield tmp_path / "go"
    (tmp_path / "go").touch()


def test_a_fit_is_seen_while_it_runs(spark: SparkSession, go: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(600, 4)).astype("f4")
    df = spark.createDataFrame(pa.table({"x": pa.array(list(x)), "y": pa.array(x.sum(1))}))
    path = str(go)

    def net() -> Any:
        import torch

        class Held(torch.nn.Linear):
            """Computes an epoch and its validation, 33 batches, and some more, and then waits."""

            calls = 0

            def forward(self, x: Any) -> Any:
                Held.calls += 1
                if Held.calls == 40:
                    waiting_for(path)
                return super().forward(x)

        return Held(4, 1)

    shards = gap.write_shards(df, tmp_path / "numbers")
    held_out = gap.write_shards(df.limit(60), tmp_path / "others")

    def work() -> Any:
        return gap.fit(
            net, shards, inputs=["x"], label="y", loss="mse", epochs=4, batch_size=20, workers=2, validation=held_out,
            name="seen fit",
        )  # fmt: skip

    result = in_background(work)

    def seen(state: RunState) -> bool:
        ranks = state.ranks.all()
        return (
            [r.latest.rank for r in ranks] == [0, 1]
            and all(r.latest.epoch == 1 and r.latest.epochs == 4 and r.latest.step > 20 for r in ranks)
            and all({"start", "data", "compute", "communicate", "validate"} <= r.latest.phases.keys() for r in ranks)
            and all(0 < r.share("data") < 1 for r in ranks)
            and sum(name == "loss" for name, _ in state.series) == 2
        )

    run = until("seen fit", seen)
    with monitor().store.reading(run) as state:
        assert state is not None
        view, line = run_view(state), Line.of(state)
    assert not go.exists()  # all of that was seen while the ranks were held back
    assert view["status"] == "running"
    assert {row["status"] for row in view["ranks"]} == {"running"}
    assert view["unit"] == "rows"
    assert view["rows_out"] > 500
    assert line is not None
    for part in ("epoch 2/4", "loss ", "rank 0 ", "rank 1 ", "data wait", "rows/s"):
        assert part in line.live()

    go.touch()
    assert len(result().history) == 4
    until("seen fit", lambda state: state.status() == "done" and [r.latest.phase for r in state.ranks.all()] == ["done"] * 2)
    with monitor().store.reading(run) as state:
        assert state is not None
        assert state.ranks.rows == 4 * 600
        assert run_view(state)["found"]["limit"]
    written = until("shards of numbers", lambda state: state.status() == "done" and state.totals().rows_out == 600)
    with monitor().store.reading(written) as state:
        assert state is not None
        assert state.totals().seconds.keys() == {"read", "write"}


def test_a_loop_of_ones_own_tells_what_it_waits_for(spark: SparkSession, go: Path) -> None:
    path = str(go)

    def loop(worker: Worker) -> None:
        worker.report(loss=0.5)
        if worker.rank == 1:
            waiting_for(path)
        worker.barrier()

    result = in_background(lambda: gap.train(loop, workers=2, name="seen loop", backend=None))
    until("seen loop", lambda state: [r.latest.phase for r in state.ranks.all()] == ["communicate", "compute"])
    assert not go.exists()
    go.touch()
    result()
    until("seen loop", lambda state: [r.latest.phase for r in state.ranks.all()] == ["done", "done"])


def test_a_black_box_tells_what_it_waits_for(spark: SparkSession, kind: str, go: Path) -> None:
    if kind != "classic":
        pytest.skip("the ranks are the same on a cluster")
    path = str(go)

    def box(worker: Worker, rows: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for block in rows:
            if worker.rank == 1:
                waiting_for(path)
            worker.barrier()
            yield {"id": block["id"]}

    out = gap.cooperate(spark.range(10), box, "id long", workers=2, as_blocks=True, name="seen box", backend=None)
    result = in_background(out.collect)
    until("seen box", lambda state: [r.latest.phase for r in state.ranks.all()] == ["communicate", "compute"])
    go.touch()
    assert len(result()) == 10
    until(
        "seen box",
        lambda state: [(r.latest.phase, r.latest.rows) for r in state.ranks.all()] == [("done", 5), ("done", 5)],
    )
