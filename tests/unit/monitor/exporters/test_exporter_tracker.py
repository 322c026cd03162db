"""Snapshots: totals of what counts, that do not fall while a run goes on, and each new thing once."""

from __future__ import annotations

import pytest

from sparkgap.monitor import state as state_module
from sparkgap.monitor.events import Artifact, Failure, Metrics, Progress, RunStarted, StageTasks, Task, TaskEnded, TaskStarted
from sparkgap.monitor.exporters.metrics import METRICS, quantile, samples
from sparkgap.monitor.exporters.snapshot import Snapshot
from sparkgap.monitor.exporters.tracker import MAX_NAMES, Tracker
from sparkgap.monitor.state import MAX_FAILURES, MAX_POINTS, MAX_STAGES, RunState
from sparkgap.testing.exporters import POINTS, ROWS, RUN, START, example, snapshots


def told(*events):
    state = RunState(RUN)
    for event in events:
        state.apply(event)
    return state


def started(task, time=START):
    return TaskStarted(run=RUN, time=time, task=task, host="h", pid=1)


def progress(task, rows, time=START + 1, **more):
    return Progress(run=RUN, time=time, task=task, stats={"rows_in": rows, "rows_out": rows}, **more)


def ended(task, rows, ok=True, time=START + 2):
    return TaskEnded(run=RUN, time=time, task=task, ok=ok, stats={"rows_in": rows, "rows_out": rows})


def points(count, time=START, task=None, name="loss"):
    return Metrics(
        run=RUN, time=time, task=task, names=(name,), points=tuple((time, float(n), float(n)) for n in range(count))
    )


def test_totals_never_fall_while_the_run_goes_on_and_are_exact_at_its_end():
    rows = [s.totals["rows_out"] for s in snapshots(example())]
    assert rows == [210, 210, 220, ROWS, ROWS]
    assert [s.final for s in snapshots(example())] == [False] * 4 + [True]


def test_a_run_that_failed_ends_with_what_counts():
    task = Task(1, 0, 1)
    story = [
        [StageTasks(run=RUN, time=START, stage=1, count=1), started(task), progress(task, 70)],
        [ended(task, 90, ok=False), StageTasks(run=RUN, time=START + 3, stage=1, count=1, done=True)],
    ]
    running, failed, final = snapshots(story)
    assert (running.totals["rows_out"], failed.totals["rows_out"], final.totals["rows_out"]) == (70, 70, 0)
    assert (final.status, final.attempts) == ("failed", {"failed": 1})


def test_totals_add_up_over_actions_even_those_that_the_state_has_forgotten():
    tracker, state = Tracker(), RunState(RUN)
    for stage in range(MAX_STAGES + 10):
        task = Task(stage, 0, stage)
        for event in (started(task), ended(task, 10, time=START + stage)):
            state.apply(event)
        snapshot = tracker.look(state)
    assert len({t.stage for t in state.attempts}) == MAX_STAGES
    assert snapshot.totals["rows_out"] == 10 * (MAX_STAGES + 10)
    assert snapshot.attempts == {"ok": MAX_STAGES + 10}


def test_a_run_is_final_only_when_nothing_has_come_since_the_last_look():
    tracker, first, second = Tracker(), Task(1, 0, 1), Task(2, 0, 2)
    state = told(started(first), ended(first, 5))
    assert [tracker.look(state).final, tracker.look(state).final, tracker.look(state)] == [False, True, None]
    state.apply(started(second, START + 5))
    assert not tracker.look(state).final
    assert tracker.look(state) is None
    state.apply(ended(second, 6, time=START + 6))
    assert [tracker.look(state).final, tracker.look(state).final, tracker.look(state)] == [False, True, None]


def test_a_run_that_was_only_planned_is_not_told():
    state = told(RunStarted(run=RUN, time=START, kind="transform", name="net"))
    assert Tracker().look(state, last=True) is None


def test_values_of_the_driver_alone_are_told():
    snapshot = Tracker().look(told(points(2)), last=True)
    assert [(p.task, p.step, p.value) for p in snapshot.points] == [(None, 0.0, 0.0), (None, 1.0, 1.0)]
    assert (snapshot.latest, snapshot.status, snapshot.final) == ({"loss": 1.0}, "planned", True)


def test_each_point_is_new_once_and_numbered():
    found = [p for s in snapshots(example()) for p in s.points]
    assert [(p.name, p.task.partition, p.value) for p in found] == POINTS
    assert [p.number for p in found] == [0, 1, 2, 0]


def test_points_that_were_gone_before_the_look_are_counted():
    tracker, state = Tracker(), told(points(3))
    assert len(tracker.look(state).points) == 3
    state.apply(points(MAX_POINTS + 7, START + 1))
    snapshot = tracker.look(state)
    assert (len(snapshot.points), snapshot.missed) == (MAX_POINTS, 7)
    assert snapshot.points[0].number == 10


def test_shown_things_that_were_gone_before_the_look_are_counted(monkeypatch):
    monkeypatch.setattr(state_module, "MAX_ARTIFACT_BYTES", 25)
    shown = [
        Artifact(run=RUN, time=START, name=f"a{n}", kind="text", media="text/plain", data=b"0123456789") for n in range(5)
    ]
    snapshot = Tracker().look(told(*shown))
    assert ([a.name for a in snapshot.artifacts], snapshot.missed) == (["a3", "a4"], 3)


def test_failures_come_once_and_those_not_kept_are_counted():
    tracker, task = Tracker(), Task(1, 0, 1)
    state = told(*(Failure(run=RUN, time=START, task=task, error="E", message=str(n)) for n in range(MAX_FAILURES)))
    assert len(tracker.look(state).failures) == MAX_FAILURES
    state.apply(Failure(run=RUN, time=START, task=task, error="E", message="more"))
    snapshot = tracker.look(state)
    assert (snapshot.failures, snapshot.missed) == ((), 1)


def test_the_last_value_leaves_out_attempts_that_do_not_count():
    good, bad = Task(1, 0, 1), Task(1, 1, 2)
    state = told(started(good), started(bad), points(3, task=good), points(9, task=bad), ended(bad, 0, ok=False))
    assert Tracker().look(state).latest == {"loss": 2.0}


def test_names_of_metrics_are_bounded():
    state = told(*(points(1, name=f"m{n}") for n in range(MAX_NAMES + 20)))
    assert list(Tracker().look(state).latest) == [f"m{n}" for n in range(MAX_NAMES)]


def test_memory_counts_a_process_once_and_gpus_a_device_once():
    first, second = Task(1, 0, 1), Task(1, 1, 2)
    gpu = {"devices": [{"index": 0, "busy": 40, "memory": 7}, {"index": 1, "reason": "no"}]}
    state = told(started(first), started(second), *(progress(t, 1, rss=100, gpu=gpu) for t in (first, second)))
    snapshot = Tracker().look(state)
    assert snapshot.memory == 100
    assert snapshot.gpus == {("h", 0): (0.4, 7), ("h", 1): (None, None)}
    assert [(s.metric.full, s.label, s.value) for s in samples(snapshot) if s.metric.label == "gpu"] == [
        ("sparkgap_gpu_utilization_ratio", "0", 0.4), ("sparkgap_gpu_memory_bytes", "0", 7),
    ]  # fmt: skip


def test_names_follow_the_practice_of_prometheus():
    assert len({m.full for m in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.full.endswith("_total") == metric.counter
        assert ("seconds" in metric.name) == (metric.unit == "s")
        assert ("bytes" in metric.name) == (metric.unit == "By")


@pytest.mark.parametrize(
    ("latency", "q", "expected"),
    [((), 0.5, None), ((0,) * 16, 0.5, None), ((0, 10), 0.5, 0.0015), ((10, 10), 0.5, 0.001), ((0,) * 15 + (4,), 0.99, 60.0)],
)
def test_quantiles(latency, q, expected):
    assert quantile(latency, q) == (None if expected is None else pytest.approx(expected))


def test_an_empty_snapshot_has_numbers_too():
    assert {s.value for s in samples(Snapshot(run="r"))} == {0, 1}
