"""A live line for each run on a terminal or in a notebook, and one that stays; elsewhere nothing.

It starts by itself with the first run of a process. Where Spark draws its own console bar, only the line that stays is
written: two live displays would overwrite each other.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkgap.monitor.finding import Verdict
from sparkgap.monitor.state import RunState, span
from sparkgap.monitor.store import Store
from sparkgap.monitor.verdict import amount_of, of_run
from sparkgap.monitor.words import of_gang

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EVERY = 0.3
SHORT = 1.0
"""Actions that are over in so many seconds leave no line behind."""


@dataclass(frozen=True)
class Line:
    """What a line says of the latest action of a run.

    Attributes:
        run: id of the run.
        stage: which action.
        name: of the run.
        status: as `RunState.status`.
        done: tasks that are over and count.
        total: tasks in all; None where that is not known.
        rows: rows given back so far, or whatever this kind of run counts.
        seconds: since the first task began.
        retries: attempts that failed or were lost.
        verdict: what limits it.
        unit: what is counted: ``"rows"``, ``"items"``, ``"trials"`` ….
        gang: of a training: epoch, loss, and what each rank does.
        speed: of a training: rows a second of all ranks.
        epochs: of a training: how many are over, and how many there will be.
    """

    run: str
    stage: int
    name: str
    status: str
    done: int
    total: int | None
    rows: int
    seconds: float
    retries: int
    verdict: Verdict
    unit: str = "rows"
    gang: str = ""
    speed: float = 0.0
    epochs: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, state: RunState) -> Line | None:
        """Return the line of a run; None before its first task."""
        stage = state.latest_stage
        if stage is None:
            return None
        counted = state.counted()
        begin, end = span(counted)
        amount, unit = amount_of(state)
        return cls(
            state.run, stage, state.name, state.status(), sum(a.status == "ok" for a in counted), state.task_count(),
            amount, max(0.0, end - begin), state.retries(), of_run(state), unit, of_gang(state),
            state.ranks.rate if state.kind == "train" else 0.0, state.ranks.epochs,
        )  # fmt: skip

    @property
    def over(self) -> bool:
        """Whether the action is certainly over: Spark has told how many tasks there are."""
        return self.total is not None and self.status != "running"

    def live(self) -> str:
        """Return the text beside the bar while it runs."""
        tasks = self.gang or f"{self.done}/{self.total or '?'} tasks"
        slow = f" · {self.verdict.text.partition(':')[0]}" if self.verdict.limit else ""
        return f"{self.name} · {tasks} · {self.rows:,} {self.unit} · {_rate(self)}{_retries(self)}{slow}"

    def final(self) -> str:
        """Return the line that stays."""
        done = f"{self.rows:,} {self.unit} in {self.seconds:.1f} s ({_rate(self)})"
        head = f"{self.name}: {done}, {self.done} tasks{_retries(self)}"
        state = "" if self.status == "done" else f", {self.status}"
        return f"{head}{state}. {self.verdict}" if self.verdict.limit else f"{head}{state}"


def _rate(line: Line) -> str:
    rate = line.speed or (line.rows / line.seconds if line.seconds > 0 else 0.0)
    return f"{rate:,.0f} {line.unit}/s" if rate >= 10 or line.unit == "rows" else f"{rate:.2g} {line.unit}/s"


def _retries(line: Line) -> str:
    return f", {line.retries} failed attempts" if line.retries else ""


class Display:
    """Draws the lines of a store, in a thread of its own.

    Args:
        store: whose runs.
        console: where to draw.
        live: whether to draw while runs are under way; else only what stays is written.
    """

    def __init__(self, store: Store, console: Console, live: bool = True) -> None:
        self._store = store
        self._console = console
        self._live = live
        self._told: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._bars: dict[str, Any] = {}
        self._progress: Progress | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="sparkgap-terminal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Draw the last state and end."""
        self._stop.set()
        self._thread.join(2.0)
        with self._lock:
            self._draw(last=True)

    def _work(self) -> None:
        version = -1
        while not self._stop.wait(EVERY):
            version = self._store.wait(version, 1.0)
            if not _held and not self._stop.is_set():
                with self._lock:
                    self._draw()

    def _draw(self, last: bool = False) -> None:
        lines = [line for run in self._store.runs() if (line := self._line(run)) is not None]
        fresh = [line for line in lines if (line.run, line.stage) not in self._told]
        running = [] if last else [line for line in fresh if not line.over]
        self._draw_live(running if self._live else [])
        for line in fresh:
            if line.over or (last and line.status != "running"):
                self._told.add((line.run, line.stage))
                if line.seconds >= SHORT or line.status != "done":
                    self._console.print(line.final(), highlight=False, markup=False, soft_wrap=True)

    def _line(self, run: str) -> Line | None:
        with self._store.reading(run) as state:
            return Line.of(state) if state is not None else None

    def _draw_live(self, lines: list[Line]) -> None:
        if not lines:
            if self._progress is not None:
                self._progress.stop()
                self._progress, self._bars = None, {}
            return
        if self._progress is None:
            self._progress = _progress(self._console)
            self._progress.start()
        for gone in set(self._bars) - {line.run for line in lines}:
            self._progress.remove_task(self._bars.pop(gone))
        for line in lines:
            if line.run not in self._bars:
                self._bars[line.run] = self._progress.add_task("", total=None)
            done, total = line.epochs if line.epochs[1] else (line.done, line.total)
            self._progress.update(self._bars[line.run], total=total, completed=done, description=line.live())


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    return Progress(BarColumn(20), TimeElapsedColumn(), text, console=console, transient=True)


_held = 0
_display: Display | None = None


@contextlib.contextmanager
def hold() -> Iterator[None]:
    """Draw nothing within the block: somebody else draws."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1


def begin(store: Store, wanted: str, spark_draws: bool) -> None:
    """Start the display of this process, once, where there is somebody to see it.

    Args:
        store: whose runs.
        wanted: ``"auto"`` (on a terminal and in a notebook), ``"true"`` or ``"false"``.
        spark_draws: whether Spark's own console bar is on.
    """
    global _display
    notebook = _in_notebook()
    if _display is not None or wanted == "false" or (wanted == "auto" and not (sys.stderr.isatty() or notebook)):
        return
    from rich.console import Console

    console = Console(stderr=not notebook)
    _display = Display(store, console, live=_can_draw(console, notebook) and not spark_draws)
    atexit.register(_display.close)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _can_draw(console: Console, notebook: bool) -> bool:
    # without ipywidgets rich writes a complaint into the cell, and no line
    return importlib.util.find_spec("ipywidgets") is not None if notebook else console.is_terminal
