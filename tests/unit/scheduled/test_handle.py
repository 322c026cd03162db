from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sparkgap._errors import TaskError
from sparkgap.scheduled.handle import TaskRun
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Ending, encode


class WatchedCondition(threading.Condition):
    """Tells when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        return super().wait(timeout)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal.temporary() as journal:
        yield journal


@pytest.mark.parametrize("read", [TaskRun.values, lambda run: next(iter(run)).unwrap()], ids=["values", "iterate"])
def test_who_sees_the_failure_finds_the_run_over(journal: Journal, read: Any) -> None:
    """The failed outcome is in the journal a moment before the run is over and has let go of it."""
    journal.append(0, b"", encode(Ending("exception", texts={"message": "not yet", "error": "ValueError"})))
    failure = TaskError("Item 0: not yet", 0, "exception", "ValueError", "")
    runner = SimpleNamespace(
        journal=journal, changed=WatchedCondition(), over=False, ended=False, stops_at_first=True, error=None, release=int
    )
    run = TaskRun("r", runner, None, None)  # type: ignore[arg-type]
    seen: list[bool] = []

    def look() -> None:
        with pytest.raises(TaskError):
            read(run)
        seen.append(runner.over)

    reader = threading.Thread(target=look)
    reader.start()
    assert runner.changed.waits.wait(30)
    with runner.changed:
        runner.over = runner.ended = True
        runner.error = failure
        runner.changed.notify_all()
    reader.join(30)
    assert seen == [True]
