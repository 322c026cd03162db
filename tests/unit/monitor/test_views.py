"""The line on a terminal, the table of runs, and the commands that look at runs of another process."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from sparkgap.cli import cli
from sparkgap.monitor import events, records, terminal
from sparkgap.monitor.events import Task
from sparkgap.monitor.history import History
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.store import Store
from sparkgap.monitor.summary import of_state
from sparkgap.monitor.terminal import Display, Line


def told(store: Store, run: str, tasks: int = 2, ended: int = 2, ok: bool = True, start: float = 1000.0) -> None:
    """A run of some tasks, ten seconds each."""
    store.say(events.RunStarted(run=run, time=start, kind="transform", name=f"net-{run}", details={"slots": "2"}))
    for n in range(tasks):
        task = Task(3, n, n)
        stats = TaskStats(3, n, n, rows_in=100, rows_out=100, seconds={"model": 9.0, "write": 1.0}).to_dict()
        said: list[events.Event] = [events.TaskStarted(run=run, time=start, task=task, host="h", pid=n)]
        said.append(events.Progress(run=run, time=start + 9, task=task, stats=stats, cpu_seconds=9.0))
        if n < ended:
            said.append(events.TaskEnded(run=run, time=start + 10, task=task, ok=ok, stats=stats, cpu_seconds=10.0))
        store.receive(f"s{n}", run, 0, [events.encode(e) for e in said])
    store.say(events.StageTasks(run=run, time=start + 10, stage=3, count=tasks, done=ended == tasks))


def line(store: Store, run: str) -> Line:
    with store.reading(run) as state:
        assert state is not None
        found = Line.of(state)
    assert found is not None
    return found


class TestLine:
    def test_running(self) -> None:
        store = Store()
        told(store, "r", tasks=3, ended=1)
        assert line(store, "r").live() == "net-r · 1/3 tasks · 300 rows · 30 rows/s · compute-bound"
        assert not line(store, "r").over

    def test_over(self) -> None:
        store = Store()
        told(store, "r")
        assert line(store, "r").over
        assert (
            line(store, "r")
            .final()
            .startswith("net-r: 200 rows in 10.0 s (20 rows/s), 2 tasks. compute-bound: 90% in the model")
        )

    @pytest.mark.parametrize(("kind", "unit"), [("search", "trials"), ("run", "items"), ("grouped", "groups")])
    def test_items_are_no_rows(self, kind: str, unit: str) -> None:
        store, task = Store(), Task(3, 0, 0)
        store.say(events.RunStarted(run="r", time=0.0, kind=kind, name="f"))
        store.say(events.TaskStarted(run="r", time=0.0, task=task, host="h", pid=1))
        stats = TaskStats(3, 0, 0, rows_in=5, rows_out=5, seconds={"model": 9.0, "read": 1.0}).to_dict()
        store.say(events.TaskEnded(run="r", time=10.0, task=task, ok=True, stats=stats))
        assert line(store, "r").final() == f"f: 5 {unit} in 10.0 s (0.5 {unit}/s), 1 tasks"
        with store.reading("r") as state:
            assert state is not None
            told = str(of_state(state))
        assert f"5 {unit} done, 1 tasks" in told
        assert "working: in the function" in told
        assert "waiting for Spark" not in told

    def test_failed(self) -> None:
        store = Store()
        told(store, "r", ok=False)
        assert "2 failed attempts, failed" in line(store, "r").final()


class TestDisplay:
    def text(self, store: Store, *, tty: bool) -> str:
        out = io.StringIO()
        display = Display(store, Console(file=out, force_terminal=tty, width=200, legacy_windows=False), live=tty)
        deadline = time.monotonic() + 20
        while "net-r: " not in out.getvalue():
            assert time.monotonic() < deadline
            store.wait(store.version, 0.1)
        display.close()
        return out.getvalue()

    def test_one_line_stays_and_no_garbage_where_it_is_no_terminal(self) -> None:
        store = Store()
        told(store, "r")
        text = self.text(store, tty=False)
        assert text.count("\n") == 1
        assert "\x1b" not in text
        assert "\r" not in text

    def test_a_bar_while_it_runs(self) -> None:
        store = Store()
        told(store, "q", tasks=3, ended=1)
        told(store, "r")
        text = self.text(store, tty=True)
        assert "net-q · 1/3 tasks" in text
        assert text.count("net-r: 200 rows") == 1

    def test_short_work_leaves_no_line_and_failures_always_do(self) -> None:
        store = Store()
        task = Task(1, 0, 0)
        for run, ok in (("quick", True), ("broken", False)):
            store.say(events.RunStarted(run=run, time=1.0, kind="transform", name=run))
            store.say(events.TaskStarted(run=run, time=1.0, task=task, host="h", pid=1))
            store.say(events.TaskEnded(run=run, time=1.1, task=task, ok=ok, stats={}))
            store.say(events.StageTasks(run=run, time=1.1, stage=1, count=1, done=True))
        out = io.StringIO()
        Display(store, Console(file=out, width=200), live=False).close()
        assert "broken" in out.getvalue()
        assert "quick" not in out.getvalue()

    def test_nobody_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stderr", io.StringIO())
        terminal.begin(Store(), "auto", spark_draws=False)
        assert terminal._display is None


class TestRecords:
    def test_table(self, tmp_path: Path) -> None:
        store = Store(History(tmp_path))
        told(store, "a", start=1000.0)
        told(store, "b", start=2000.0, ok=False)
        store.say(events.RunStarted(run="planned", time=3000.0, kind="transform", name="n"))
        for source in (store, Store(History(tmp_path))):  # live, and from the disk
            rows = records.table(source).to_pylist()
            assert {r["run"]: r["status"] for r in rows} == {"a": "done", "b": "failed"}
            (a,) = [r for r in rows if r["run"] == "a"]
            assert (a["rows_out"], a["tasks"], a["seconds"], a["limit"]) == (200, 2, 10.0, "model")
        assert records.table(store, limit=1).num_rows <= 1
        assert records.table(Store()).schema == records.SCHEMA


class TestCommands:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        store = Store(History(tmp_path))
        told(store, "20260101-good")
        told(store, "20260102-bad", ok=False)
        return tmp_path

    def run(self, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, list(arguments))
        return result.exit_code, result.output

    def test_runs(self, folder: Path) -> None:
        code, text = self.run("runs", "--dir", str(folder))
        assert code == 0
        assert "20260101-good  done    net-20260101-good: 200 rows in 10.0 s, 2 tasks" in text
        assert "compute-bound" in text
        code, text = self.run("runs", "--dir", str(folder), "--json", "--limit", "1")
        assert json.loads(text)["run"].startswith("2026")

    def test_no_runs(self, tmp_path: Path) -> None:
        assert self.run("runs", "--dir", str(tmp_path)) == (
            0,
            "No runs yet. A run begins with the first action on what gap.transform returned.\n",
        )

    @pytest.mark.parametrize(("run", "code"), [("20260101", 0), ("20260102-bad", 1), ("nope", 2), ("2026", 2)])
    def test_watch(self, folder: Path, run: str, code: int) -> None:
        found, text = self.run("watch", run, "--dir", str(folder))
        assert found == code, text
        assert ("200 rows in" in text) == (code == 0)
