"""The verdict as a pure function: shares, boundaries of its rules, what it says where little is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.monitor.events import Task
from sparkgap.monitor.state import Attempt
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.verdict import MAIN, of_items, verdict


def attempt(
    partition: int = 0, start: float = 0.0, end: float = 10.0, cpu: float | None = None, rows: int = 1000, **seconds: float
) -> Attempt:
    stats = TaskStats(1, partition, partition, rows_in=rows, rows_out=rows, batches=10, seconds=dict(seconds))
    busy = end - start if cpu is None else cpu
    return Attempt(Task(1, partition, partition), "ok", "h", 1, 1, start, end, end, stats=stats, cpu_seconds=busy)


@given(st.lists(st.fixed_dictionaries({p: st.floats(0, 100) for p in (*MAIN, "read", "decode")}), max_size=4))
def test_always_an_answer_and_a_share_of_one_at_most(parts: list[dict[str, float]]) -> None:
    found = verdict([attempt(n, **p) for n, p in enumerate(parts)])
    assert 0 <= found.share <= 1 + 1e-9
    assert found.text
    assert bool(found.limit) == bool(found.fix)


def test_short_work_has_none() -> None:
    assert verdict([attempt(model=0.4)]).limit == ""
    assert verdict([]).limit == ""


def test_encode() -> None:
    found = verdict([attempt(model=1.0, encode=4.0)])
    assert (found.limit, round(found.share, 2)) == ("encode", 0.8)
    assert "binary" in found.fix


def test_a_wait_goes_on_the_account_of_what_keeps_the_reader_busy() -> None:
    assert verdict([attempt(starved=8.0, model=1.0, read=2.0, decode=7.0)]).limit == "decode"
    by_boundary = {
        b: verdict([attempt(starved=8.0, model=1.0, read=7.0, decode=2.0)], boundary=b) for b in ("rows", "files", "")
    }
    assert {v.limit for v in by_boundary.values()} == {"read"}
    assert "gap.files" in by_boundary["rows"].fix
    assert "storage" in by_boundary["files"].fix


def test_a_straggler_is_told_from_an_uneven_split() -> None:
    even = [attempt(n, 0, 2, model=2.0) for n in range(4)]
    rows = verdict([*even, attempt(4, 0, 10, rows=9000, model=10.0)], slots=2)
    same = verdict([*even, attempt(4, 0, 10, model=10.0)], slots=2)
    assert rows.limit == same.limit == "straggler"
    assert "as it has 9,000 rows" in rows.text
    assert "speculation" in same.fix
    assert verdict([*even, attempt(4, 0, 3, model=3.0)], slots=2).limit == "model"


def test_while_others_run_nobody_is_a_straggler() -> None:
    running = [attempt(0, 0, 10, model=10.0), attempt(1, 2, 6, model=4.0)]
    for one in running:
        one.ended = None
    assert verdict([*running, *[attempt(n, 0, 2, model=2.0) for n in range(2, 5)]], slots=2).limit == "model"


def test_idle_slots_need_to_be_known() -> None:
    one = [attempt(0, model=10.0)]
    assert verdict(one, tasks=1, slots=4).limit == "idle slots"
    assert verdict(one, tasks=1, slots=None).limit == "model"
    assert verdict(one, tasks=8, slots=4).limit == "model"  # the others have not begun


def test_a_gpu_is_no_idle_core() -> None:
    waits = attempt(model=10.0, cpu=1.0)
    assert verdict([waits]).limit == "waiting model"
    waits.gpu = {"devices": [{"index": 0}]}
    assert verdict([waits]).limit == "model"


def test_threads() -> None:
    many = attempt(model=10.0)
    many.runnable = 7.5
    assert verdict([many]).limit == "threads"
    many.cpus = 8
    assert verdict([many]).limit != "threads"


@pytest.mark.parametrize(("read", "model", "limit"), [(0.1, 10.0, ""), (6.0, 4.0, "idle slots"), (0.2, 0.1, "")])
def test_slots_of_independent_items_are_judged_by_their_work_only(read: float, model: float, limit: str) -> None:
    told = Attempt(Task(-1, 0, 0))
    told.stats.seconds.update(read=read, model=model)
    assert of_items([told]).limit == limit
