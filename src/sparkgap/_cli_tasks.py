"""`sparkgap run`: a function of the user over the lines of a file, each as a task of its own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from sparkgap._errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.scheduled.handle import TaskRun
    from sparkgap.scheduled.outcome import Outcome

F = TypeVar("F", bound=Callable[..., Any])
STANDARD = "-"
SHOWN = 5
"""So many failures are told at the end."""
EXAMPLES = """\b
Examples:
  sparkgap run train:one_customer customers.jsonl --out models.jsonl --journal customers.journal
  sparkgap run convert:to_onnx files.jsonl --timeout 600 --retries 2 --master spark://host:7077
  seq 100 | sparkgap run jobs:square - --out -
"""


def options(command: F) -> F:
    """Put the options of `sparkgap run` on a command."""
    for option in reversed(
        (
            click.option("--out", help="File for the outcomes: one JSON object a line, or a table (.parquet); - for stdout."),
            click.option(
                "--journal", help="File that keeps outcomes: the same command finds what is done there, and goes on."
            ),
            click.option("--key", metavar="NAME", help="The field that names an item in the journal. Default: all of it."),
            click.option("--parallel", type=click.IntRange(1), help="Tasks at the same time. Default: all that Spark runs."),
            click.option("--cpus", type=click.IntRange(1), help="Cores a task. Default: as Spark gives them."),
            click.option("--memory", metavar="SIZE", help="Memory above which a task's process is killed: 2g."),
            click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that an attempt may take."),
            click.option("--retries", type=click.IntRange(0), default=0, show_default=True, help="Of an item that failed."),
            click.option("--fresh", is_flag=True, help="Give each item a new process."),
            click.option(
                "--on-error",
                type=click.Choice(["collect", "raise"]),
                default="collect",
                show_default=True,
                help="At an item that has no value: go on, or end the run.",
            ),
        )
    ):
        command = option(command)
    return command


def run(
    start: Callable[[], SparkSession], function: str, items: str, out: str | None, journal: str | None, **call: Any
) -> bool:
    """Run a function over the lines of a file; returns whether every item has a value.

    Args:
        start: starts the session; called when all that can be checked without it is in order.
        function: ``module:function``; the module may lie in the current folder.
        items: file with a JSON value a line, or ``-``.
        out: file for the outcomes, ``-``, or None.
        journal: file that keeps outcomes.
        call: further options of `gap.run`.

    Raises:
        ConfigurationError: there is no such function or file, a line is no JSON, or an option makes no sense.
        TaskError: an item has no value, and the run was to end at that.
    """
    called = find(function)
    lines = Lines.of(items)
    _check_out(out)
    spark = start()
    import sparkgap as gap

    began = time.monotonic()
    tally = Tally()
    task_run = gap.run(called, lines, journal=journal, spark=spark, **call)
    try:
        with task_run, _writer(out) as write:
            for outcome in task_run:
                tally.add(outcome)
                write(outcome)
    except KeyboardInterrupt:
        kept = f"{journal} has them: the same command goes on from there" if journal else "--journal would have kept them"
        click.echo(f"Cancelled with {len(task_run):,} outcomes; {kept}.", err=True)
        raise
    except BaseException:
        click.echo(tally.text(time.monotonic() - began), err=True)
        raise
    _write_table(out, task_run)
    click.echo(tally.text(time.monotonic() - began), err=True)
    return tally.kinds["ok"] == tally.kinds.total()


def find(name: str) -> Callable[..., Any]:
    """Import ``module:function``, also from the current folder, in such a way that it can be sent to executors.

    Raises:
        ConfigurationError: there is no such module or function, or importing it raised.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ConfigurationError(f"{name!r} names no function. Write module:function, like train:one_customer.")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # the command's own folder is there instead
    module = _module(module_name)
    try:
        found = attrgetter(path)(module)
    except AttributeError:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ConfigurationError(
            f"Module {module_name} has no {path!r}; it has {', '.join(sorted(known)[:10]) or 'no functions'}."
        ) from None
    if not callable(found):
        raise ConfigurationError(f"{name} is a {type(found).__name__}, not a function.")
    _send_along(Path(here))
    return found  # type: ignore[no-any-return]  # it is callable, as was just seen


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"There is no module {error.name!r}, in {os.getcwd()} or installed. Run this where {error.name}.py lies, or "
                "install it."
            ) from error
        raise ConfigurationError(f"Module {name} needs {error.name!r}, which is not installed.") from error
    except Exception as error:  # of any class: it is the user's module
        raise ConfigurationError(f"Importing {name} raised {type(error).__name__}: {error}") from error


def _send_along(folder: Path) -> None:
    """Have what was imported from a folder pickled by value: executors have no such folder, and could not import it.

    What is installed is left alone: by reference it is imported there, as a whole. What the function itself imports from
    the folder when it is called is not known here, and must be installed on the executors.
    """
    from pyspark import cloudpickle

    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or name in ("sparkgap", "__main__") or file is None:
            continue
        if Path(file).parent in (folder, folder / name):  # name.py, or name/__init__.py with all that is beneath
            cloudpickle.register_pickle_by_value(module)


@dataclass(frozen=True)
class Lines:
    """The items of a file.

    Args:
        path: of the file; None for standard input.
    """

    path: Path | None

    @staticmethod
    def of(name: str) -> Lines:
        """Return the items of a file, all of them looked at, or those of standard input.

        Raises:
            ConfigurationError: the file is not there, or a line is no JSON.
        """
        if name == STANDARD:
            return Lines(None)
        path = Path(name)
        if not path.is_file():
            raise ConfigurationError(f"There is no file {name}. Give a file with one JSON value a line, or - for stdin.")
        lines = Lines(path)
        return SizedLines(path, sum(1 for _ in lines))

    def __iter__(self) -> Iterator[Any]:
        """Read the items; empty lines are passed over."""
        with contextlib.nullcontext(sys.stdin) if self.path is None else self.path.open(encoding="utf-8") as file:
            yield from _values(file, str(self.path or "stdin"))


@dataclass(frozen=True)
class SizedLines(Lines):
    """The items of a file that was looked at.

    Args:
        count: how many there are.
    """

    count: int

    def __len__(self) -> int:
        return self.count


def _values(file: Iterable[str], name: str) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            shown = line.strip() if len(line) < 60 else f"{line.strip()[:60]}…"
            raise ConfigurationError(f"Line {number} of {name} is no JSON value ({error}): {shown}") from None


@dataclass
class Tally:
    """What came of the items.

    Args:
        kinds: how many of each kind.
        failures: the first of those without a value.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.kinds[outcome.kind] += 1
        if not outcome.ok and len(self.failures) < SHOWN:
            self.failures.append(outcome)

    def text(self, seconds: float) -> str:
        """Say it in a line, with a line for each of the first failures."""
        total, good = self.kinds.total(), self.kinds["ok"]
        bad = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common() if kind != "ok")
        head = f"{total:,} item{'s' * (total != 1)} in {seconds:.1f} s: {good:,} with a value"
        lines = [f"{head}, {total - good:,} without ({bad})" if bad else head]
        lines += [f"  {_first_line(one)}" for one in self.failures]
        if (more := total - good - len(self.failures)) > 0:
            lines.append(f"  and {more:,} more")
        return "\n".join(lines)


def _first_line(outcome: Outcome) -> str:
    if outcome.error is None:
        return f"Item {outcome.index}"
    name = f" [{outcome.error.error}]" if outcome.error.error else ""
    return outcome.error.message.partition("\n")[0] + name


def _check_out(out: str | None) -> None:
    """See that there will be a place for outcomes, before any work is done for them.

    Raises:
        ConfigurationError: there is none.
    """
    if out is not None and out != STANDARD and (not Path(out).absolute().parent.is_dir() or Path(out).is_dir()):
        raise ConfigurationError(f"--out {out}: give a file in a folder that is there.")


def _is_table(out: str | None) -> bool:
    return out is not None and out.endswith(".parquet")


@contextlib.contextmanager
def _writer(out: str | None) -> Iterator[Callable[[Outcome], None]]:
    """Give what writes an outcome as a line, as soon as it and those before it are there."""
    if out is None or _is_table(out):
        yield lambda outcome: None
        return
    opened: IO[str] = sys.stdout if out == STANDARD else Path(out).open("w", encoding="utf-8")
    try:
        yield lambda outcome: _write_line(opened, outcome)
    finally:
        if opened is not sys.stdout:
            opened.close()


def _write_line(file: IO[str], outcome: Outcome) -> None:
    file.write(line_of(outcome) + "\n")
    file.flush()


def _write_table(out: str | None, task_run: TaskRun) -> None:
    if out is not None and _is_table(out):
        import pyarrow.parquet as pq

        pq.write_table(task_run.to_arrow(), out)


def line_of(outcome: Outcome) -> str:
    """Return an outcome as JSON; a value that JSON has no word for as its repr, with ``"value_repr": true``."""
    row = {
        "index": outcome.index, "item": outcome.item, "kind": outcome.kind, "value": outcome.value,
        "error": None if outcome.error is None else str(outcome.error), "attempts": outcome.attempts,
        "seconds": outcome.seconds, "started": outcome.started, "peak_rss": outcome.peak_rss,
        "exit_code": outcome.exit_code, "signal": outcome.signal, "host": outcome.host, "output": outcome.output,
    }  # fmt: skip
    try:
        json.dumps(outcome.value, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        row |= {"value": repr(outcome.value), "value_repr": True}
    return json.dumps(row, default=_plain)


def _plain(value: Any) -> Any:
    """Return arrays and scalars of NumPy as Python's own."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    raise TypeError(f"JSON has no {type(value).__name__}")
