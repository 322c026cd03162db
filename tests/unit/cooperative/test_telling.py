"""Seconds by phase in a rank: always in one phase, nothing counted twice, and told whatever happens."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sparkgap.cooperative import telling as told
from sparkgap.cooperative.telling import Clock, telling, within
from sparkgap.monitor import events, relay


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[events.RankProgress]:
    """What the rank tells."""
    found: list[Any] = []
    monkeypatch.setattr(relay, "keep", lambda event: found.append(event) or True)
    monkeypatch.setattr(relay, "listening", lambda: True)
    return found


def worker(**more: Any) -> Any:
    return SimpleNamespace(**{"rank": 1, "world": 2, "rows": 0, "steps": 0, "epoch": 0, "epochs": 3} | more)


def test_phases_add_up_to_the_time_that_has_passed() -> None:
    began = time.perf_counter()
    clock = Clock("start")
    for phase in ("compute", "data", "compute", "communicate") * 50:
        clock.turn(phase)
    phase, seconds = clock.read()
    passed = time.perf_counter() - began
    assert phase == "communicate"
    assert set(seconds) == {"start", "compute", "data", "communicate"}
    assert sum(seconds.values()) <= passed
    assert sum(seconds.values()) == pytest.approx(passed, abs=0.05)


def test_blocks_lie_in_each_other(kept: list[events.RankProgress]) -> None:
    seen = []
    with telling(worker(), "compute"):
        with within("validate"):
            with within("communicate"):
                seen.append(told._clock.phase)
            seen.append(told._clock.phase)
        with within("checkpoint"), within("communicate"):  # a wait for others is a part of it
            seen.append(told._clock.phase)
        seen.append(told._clock.phase)
    assert seen == ["communicate", "validate", "checkpoint", "compute"]
    assert set(kept[-1].phases) == {"compute", "validate", "communicate", "checkpoint"}


def test_the_start_ends_with_the_first_batch(kept: list[events.RankProgress]) -> None:
    phases = []
    with telling(worker(), "start"):
        with within("communicate"):
            phases.append(told._clock.phase)
        for _ in told.Pace().over(iter([{"x": []}])):
            phases.append(told._clock.phase)
    assert phases == ["start", "compute"]
    assert "data" in kept[-1].phases


def test_other_threads_count_nothing(kept: list[events.RankProgress]) -> None:
    seen = []

    def other() -> None:
        with within("data"):
            seen.append(told._clock.phase)

    with telling(worker(), "compute"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["compute"]


def test_outside_of_a_rank_nothing_happens() -> None:
    with within("data"):
        assert told._clock is None
    told.turn("data")
    told.started()


def test_a_rank_that_stands_still_goes_on_telling(kept: list[events.RankProgress], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "EVERY", 0.01)
    with telling(worker(rows=64), "compute"), within("communicate"):
        deadline = time.monotonic() + 60
        while len(kept) < 5:
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
    assert {(k.phase, k.rows, k.epochs) for k in kept[2:-1]} == {("communicate", 64, 3)}
    assert kept[-1].phase == "done"


def test_a_failure_is_its_last_word(kept: list[events.RankProgress]) -> None:
    with pytest.raises(ValueError, match="bad"), telling(worker(), "compute"):
        raise ValueError("bad")
    assert [k.phase for k in kept] == ["compute", "failed"]
    assert told._clock is None


def test_where_nobody_listens_no_thread_is_made() -> None:
    before = threading.active_count()
    with telling(worker(), "compute"):
        assert threading.active_count() == before
