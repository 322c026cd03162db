"""A folder of runs that several processes share: each makes room, and none loses its own history by that."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sparkgap.monitor import events
from sparkgap.monitor.events import Task, encode
from sparkgap.monitor.history import History
from sparkgap.monitor.stats import TaskStats

RUNS = 150


def told(run: str) -> list[Mapping[str, Any]]:
    task, stats = Task(0, 0, 0), TaskStats().to_dict()
    return [
        encode(events.TaskStarted(run=run, time=1.0, task=task, host="h", pid=1)),
        encode(events.TaskEnded(run=run, time=2.0, task=task, ok=True, stats=stats)),
    ]


def test_two_make_room_at_the_same_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = [History(tmp_path, keep_runs=4), History(tmp_path, keep_runs=4)]
    stopped: list[BaseException] = []

    def write(name: str, history: History) -> None:
        try:
            for number in range(RUNS):
                history.keep(f"{name}{number}", "driver", told(f"{name}{number}"))
                history._bytes.clear()  # as if each run were of a process of its own, so that none is spared
                history.read(f"{name}{number}")
        except BaseException as error:
            stopped.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in zip("ab", both, strict=True)]
    with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not stopped
    assert not caplog.records  # no history has ended
    for name, history in zip("ab", both, strict=True):
        history.keep(f"{name}-last", "driver", told(f"{name}-last"))
        state = history.read(f"{name}-last")
        assert state is not None
        assert state.status() == "done"


def test_a_run_goes_on_where_another_process_took_its_folder(tmp_path: Path) -> None:
    mine = History(tmp_path)
    mine.keep("long", "driver", told("long")[:1])
    other = History(tmp_path, keep_runs=1)
    other.keep("new", "driver", told("new"))
    assert other.runs() == ["new"]
    mine.keep("long", "driver", told("long")[1:])
    assert set(mine.runs()) == {"new", "long"}
