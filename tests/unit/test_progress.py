"""The progress line: what it says, and that it stays away where there is no terminal."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from sparkgap._progress import Status, Told, final_line, progress


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status(12, 12), "12 of 12 tasks in 3.4 s"),
        (Status(12, 12, 0, 2), "12 of 12 tasks in 3.4 s, 2 failed attempts"),
        (Status(11, 12), "done in 3.4 s (11 of 12 tasks seen)"),
        (Status(), "done in 3.4 s"),
    ],
)
def test_final_line(status: Status, line: str) -> None:
    assert final_line(status, 3.44) == line


def test_reports_of_a_connect_client_are_added_up() -> None:
    drawn: list[Status] = []
    told = Told(drawn.append)
    stages = [SimpleNamespace(num_tasks=4, num_completed_tasks=1), SimpleNamespace(num_tasks=2, num_completed_tasks=0)]
    told(stages=stages, inflight_tasks=2, operation_id="a", done=False)
    told(stages=stages[:1], inflight_tasks=1, operation_id="b", done=False)
    told(stages=stages[:1], inflight_tasks=1, operation_id="b", done=True)
    assert drawn == [Status(1, 6, 2), Status(2, 10, 3), Status(2, 10, 2)]
    assert told.status == drawn[-1]


def test_nothing_at_all_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console(file=StringIO(), force_terminal=True)
    with progress(None, console=console):  # type: ignore[arg-type]  # the session is not even looked at
        pass
    assert capfd.readouterr() == ("", "")
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
