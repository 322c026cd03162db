"""Events travel as JSON and come back as they were; strangers' text never becomes one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.monitor import events, wire
from sparkgap.monitor.events import Artifact, Event, Metrics, Task, decode, encode

TASK = Task(3, 1, 17)
SAMPLES: list[Event] = [
    events.RunStarted(run="r", time=1.0, kind="transform", name="net", details={"boundary": "rows"}),
    events.StageTasks(run="r", time=1.0, stage=3, count=8, done=True),
    events.TaskStarted(run="r", time=1.5, task=TASK, host="h", pid=5, cpus=2),
    events.Phase(run="r", time=1.5, task=TASK, name="loading"),
    events.Progress(run="r", time=2.0, task=TASK, stats={"rows_in": 5}, cpu_seconds=0.5, rss=1, gpu={"reason": "none"}),
    Metrics(run="r", time=2.0, task=TASK, names=("loss", "accuracy"), points=((2.0, 1.0, 0.5, None), (2.1, None, 0.4, 0.9))),
    events.Log(run="r", time=2.0, task=TASK, level="INFO", logger="l", text="naïve ☃"),
    Artifact(run="r", time=2.0, task=TASK, name="x", kind="image", media="image/png", data=bytes(range(256)), step=3),
    events.Failure(run="r", time=3.0, task=TASK, error="ValueError", message="m", traceback="t"),
    events.TaskEnded(run="r", time=3.0, task=TASK, ok=False, stats={}, said={"log": 2}, dropped={"metrics": 1}),
    events.Trial(
        run="r",
        time=4.0,
        number=7,
        values=(0.5, float("inf")),
        params={"x": 0.1, "kind": "round"},
        distributions={"x": {"low": 0.0, "high": 1.0, "log": False}, "kind": {"choices": ["round", None, True]}},
        report=(3.0, None),
        started=1.0,
    ),
    events.RankProgress(
        run="r", time=5.0, task=TASK, rank=1, world=2, phase="data", phases={"data": 0.5, "compute": 2.0}, rows=640, step=10,
        epoch=1, epochs=3, host="h", pid=7,
    ),
]  # fmt: skip


@pytest.mark.parametrize("event", SAMPLES, ids=lambda e: e.type)
def test_round_trip(event: Event) -> None:
    raw = json.loads(json.dumps(encode(event), allow_nan=False))
    assert decode(raw) == event


@pytest.mark.parametrize("task", [[float("inf"), 1, 1], [1, 2], "abc", [None, 1, 1], 5])
def test_a_task_that_is_none(task: Any) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode({"type": "phase", "run": "r", "time": 1.0, "name": "n", "task": task})


def test_every_type_has_a_sample() -> None:
    assert {e.type for e in SAMPLES} == set(events.TYPES)


def test_another_versions_events_are_read_as_far_as_known() -> None:
    raw = encode(SAMPLES[6]) | {"colour": "green"}
    assert decode(raw) == SAMPLES[6]
    assert decode({"type": "invented later", "run": "r", "time": 1}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aZ0☃", max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text("aZ0☃", max_size=5), x, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(events.TYPES)),
    st.dictionaries(
        st.sampled_from(
            ["run", "time", "task", "names", "points", "data", "stats", "number", "values", "distributions", "report"]
        ),
        JSON,
    ),
)
def test_garbage_is_refused_with_value_errors(kind: str, fields: dict[str, Any]) -> None:
    try:
        event = decode({"type": kind, **fields})
    except ValueError:
        return
    assert event is None or event.type == kind


@given(st.binary(max_size=200))
def test_frames_of_garbage(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - also the JSON decoder's own
        wire.parse_events(wire.parse(raw))


def test_frame_limit() -> None:
    with pytest.raises(ValueError, match="the limit is"):
        wire.body_length(wire.HEADER.pack(wire.MAX_FRAME + 1))
    with pytest.raises(ValueError, match="the limit is"):
        wire.packed(b"x" * (wire.MAX_FRAME + 1))


def test_proof_needs_the_token() -> None:
    nonce = b"n" * wire.NONCE_BYTES
    assert wire.authentic("secret", nonce, wire.proof("secret", nonce))
    assert not wire.authentic("secret", nonce, wire.proof("guess", nonce))
    assert not wire.authentic("secret", b"m" * wire.NONCE_BYTES, wire.proof("secret", nonce))
