"""What the page shows of a run: true figures, bounded sizes, JSON whatever comes."""

from __future__ import annotations

import json
import time

import pytest
from web_runs import Making, pictures, rich

from sparkgap.monitor import events
from sparkgap.monitor.events import Task
from sparkgap.monitor.state import RunState
from sparkgap.monitor.web.curves import metric_curves, thinned, throughput
from sparkgap.monitor.web.past import Runs
from sparkgap.monitor.web.plain import finite
from sparkgap.monitor.web.stream import Look
from sparkgap.monitor.web.view import MAX_ARTIFACTS, MAX_LOGS, MAX_TASKS, artifact, run_line, run_view


def state_of(store, run) -> RunState:
    with store.reading(run) as state:
        assert state is not None
        return state


@pytest.fixture
def made(store):
    return Making(store, "r1", 1000.0, "net", boundary="files")


def test_a_planned_run(store, made):
    view = run_view(state_of(store, "r1"))
    assert (view["status"], view["name"], view["kind"], view["rate"], view["tasks"]) == (
        "planned",
        "net",
        "transform",
        None,
        None,
    )
    assert view["phases"] == view["throughput"] == view["attempts"]["shown"] == []
    assert view["details"] == {"boundary": "files"}


def test_rate_and_elapsed_are_of_the_attempts_that_count(store, made):
    made.stage(2)
    lost, good, other = Task(3, 0, 1), Task(3, 0, 2), Task(3, 1, 3)
    made.start(lost, 0)
    made.end(lost, 5, 9999, 5, ok=False)
    made.start(good, 10)
    made.end(good, 20, 600, 10)
    made.start(other, 12)
    made.progress(other, 30, 400, 18)
    line = run_line(state_of(store, "r1"))
    assert (line["rows_out"], line["elapsed"], line["rate"]) == (1000, 20.0, 50.0)
    assert (line["done"], line["running"], line["tasks"], line["status"]) == (1, 1, 2, "running")


def test_the_slow_phase_is_marked_and_the_shares_are_those_of_the_verdict(store, made):
    task = Task(3, 0, 1)
    made.start(task, 0)
    made.end(task, 20, 5000, 20)
    view = run_view(state_of(store, "r1"))
    assert [p["phase"] for p in view["phases"] if p["slow"]] == ["model"]
    assert sum(p["share"] for p in view["phases"]) == pytest.approx(1)
    model = next(p for p in view["phases"] if p["phase"] == "model")
    assert model["share"] == pytest.approx(view["found"]["share"])
    assert view["unmeasured"] == pytest.approx(0.03)
    assert view["verdict"].startswith("compute-bound")


def test_a_retried_task_is_told_apart_and_its_failure_is_healed(store, made):
    first, second = Task(3, 4, 1), Task(3, 4, 7)
    made.start(first, 0)
    made.fail(first, 1, "no", error="ValueError")
    made.end(first, 1, 10, 1, ok=False)
    made.start(second, 2)
    made.end(second, 9, 50, 7)
    view = run_view(state_of(store, "r1"))
    assert [(a["try"], a["status"], a["counts"]) for a in view["attempts"]["shown"]] == [(1, "failed", False), (2, "ok", True)]
    assert view["attempts"]["retried"] == 1
    (failure,) = view["failed"]
    assert (failure["error"], failure["partition"], failure["host"], failure["healed"]) == ("ValueError", 4, "worker-1", True)


def test_many_tasks_are_cut_and_none_that_failed_goes(store, made):
    for n in range(MAX_TASKS + 40):
        task = Task(3, n, n)
        made.start(task, 0)
        made.end(task, 1 + n / 100, 1, 1, ok=n != 0)
    attempts = run_view(state_of(store, "r1"))["attempts"]
    assert len(attempts["shown"]) == MAX_TASKS
    assert (attempts["rest"]["count"], attempts["rest"]["rows_out"], attempts["rest"]["status"]) == (40, 40, {"ok": 40})
    assert attempts["shown"][0]["status"] == "failed"


def test_logs_are_the_latest_ones_by_time(store, made):
    for n in range(MAX_LOGS + 10):
        made.log(None, n if n % 2 else n + 1.5, f"line {n}")
    view = run_view(state_of(store, "r1"))
    assert len(view["logs"]) == MAX_LOGS
    assert view["log_count"] == MAX_LOGS + 10
    times = [line["time"] for line in view["logs"]]
    assert times == sorted(times)


def test_artifacts_newest_of_each_name_first_and_numbers_stay(store, made):
    task = Task(3, 0, 1)
    for step in range(MAX_ARTIFACTS):
        made.show(task, step, "text", f"step {step}", step=step)
    made.show(task, 99, "pictures", pictures(1))
    view = run_view(state_of(store, "r1"))
    assert len(view["artifacts"]) == MAX_ARTIFACTS
    assert [(a["name"], a["step"]) for a in view["artifacts"][:3]] == [("pictures", None), ("text", 59), ("text", 58)]
    number = view["artifacts"][1]["number"]
    for step in range(400):  # beyond what is kept
        made.show(task, 100 + step, "later", "x", step=step)
    state = state_of(store, "r1")
    assert artifact(state, number) is None
    latest = run_view(state)["artifacts"][0]
    found = artifact(state, latest["number"])
    assert found is not None
    assert (found.name, found.step) == ("later", 399)
    assert "data" not in latest
    assert artifact(state, -1) is None


def test_series_of_one_name_share_a_chart_and_are_thin(store, made):
    for n in range(3):
        made.metric(Task(3, n, n), "loss", [float(i) for i in range(1500)], 0, 0.1)
    made.metric(Task(3, 0, 0), "lr", [0.1, float("nan")], 0, 1)
    loss, lr = metric_curves(state_of(store, "r1").series.values())
    assert (loss["name"], len(loss["lines"])) == ("loss", 3)
    assert [len(line["points"]) for line in loss["lines"]] == [300, 300, 300]
    assert loss["lines"][0]["points"][0][2] == 0
    assert loss["lines"][0]["points"][-1][2] == 1499
    assert finite(lr)["lines"][0]["points"][1][2] is None


def test_thinning_keeps_both_ends():
    assert thinned(range(3), 5) == [0, 1, 2]
    assert thinned(range(1001), 3) == [0, 500, 1000]
    assert thinned(range(9), 1) == [8]


def test_throughput_adds_up_to_the_rows(store, made):
    for n, (begin, end, rows) in enumerate([(0, 10, 500), (3, 9, 1200), (9, 20, 77)]):
        made.start(Task(3, n, n), begin)
        made.end(Task(3, n, n), end, rows, end - begin)
    curve = throughput(state_of(store, "r1").counted())
    width = curve[1][0] - curve[0][0]
    assert sum(v for _, v in curve) * width == pytest.approx(1777)
    assert len(curve) == 120


def test_everything_is_json_and_stays_small(store):
    run = rich(store).run
    state = state_of(store, run)
    task = Task(3, 1, 1)
    state.apply(events.Metrics(run=run, time=time.time(), task=task, names=("x",), points=((1.0, 1.0, float("inf")),)))
    state.apply(
        events.Failure(run=run, time=time.time(), task=task, error="E" * 9999, message="m" * 99_999, traceback="t" * 99_999)
    )
    text = json.dumps(finite(run_view(state)), allow_nan=False)
    assert len(text) < 400_000


def test_the_recent_rate_is_of_the_last_seconds_and_starts_anew_with_an_action(store, made):
    look = Look(Runs(store), "r1")
    task = Task(3, 0, 1)
    made.start(task, 0)

    def recent(at, rows, task=task):
        made.progress(task, at, rows, at)
        (told,) = [m for m in look.news() if m.startswith(b"event: run\n")]
        return json.loads(told.partition(b"data: ")[2])["recent"]

    assert recent(100, 1000) is None
    assert recent(105, 2000) == 200
    assert recent(112, 9000) == 1000, "what is older than ten seconds does not count"
    assert look.news() == [], "nothing changed, nothing is told"
    other = Task(4, 0, 2)
    made.start(other, 113)
    assert recent(114, 5, other) is None
