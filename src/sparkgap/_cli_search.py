"""`sparkgap search`: a search for hyper-parameters that a file describes."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparkgap import _cli_tasks as cli_tasks
from sparkgap import _search_config as search_config
from sparkgap._cli_tasks import SHOWN, STANDARD

if TYPE_CHECKING:
    import optuna
    from pyspark.sql import SparkSession

F = TypeVar("F", bound=Callable[..., Any])
EXAMPLES = """\b
Examples:
  sparkgap search search.toml --out trials.jsonl
  sparkgap search search.toml --trials 200 --storage study.journal --master spark://host:7077
\b
search.toml:
  objective = "train:loss"
  trials = 50
  sampler = {name = "TPESampler", seed = 1}
  [space]
  lr = {float = [1e-5, 1e-1], log = true}
  layers = {int = [1, 4]}
  act = {choice = ["relu", "tanh"]}
"""


def options(command: F) -> F:
    """Put the options of `sparkgap search` on a command."""
    for option in reversed(
        (
            click.option("--out", help="File for the trials: one JSON object a line, or a table (.parquet); - for stdout."),
            click.option("--trials", type=click.IntRange(1), help="Instead of trials in the file."),
            click.option("--parallel", type=click.IntRange(1), help="Instead of parallel in the file."),
            click.option("--storage", help="Instead of storage in the file: a URL, or a path that ends in .log or .journal."),
        )
    ):
        command = option(command)
    return command


def search(start: Callable[[], SparkSession], config: str, out: str | None, **given: Any) -> bool:
    """Run the search that a file describes; returns whether a trial has a value.

    Args:
        start: starts the session; called when all that can be checked without it is in order.
        config: the file.
        out: file for the trials, ``-``, or None.
        given: options that go before those of the file, where they are not None.

    Raises:
        ConfigurationError: the file or an option makes no sense, or there is no such function.
        MissingDependencyError: Optuna is not installed.
        TaskError: a trial failed, and the file has ``catch = false``.
    """
    read = search_config.read(Path(config))
    read |= {name: value for name, value in given.items() if value is not None}
    called = search_config.options_of(read)
    objective = search_config.objective_of(cli_tasks.find(read["objective"]), read.get("space"))
    cli_tasks._check_out(out)
    spark = start()
    import sparkgap as gap

    began = time.monotonic()
    seen = Seen()
    try:
        study = gap.search(objective, callbacks=[seen], spark=spark, **called)
    except BaseException as error:
        if seen.study is not None:
            _write(out, seen.study)
        if isinstance(error, KeyboardInterrupt):
            click.echo(_interrupted(seen.study, called.get("storage")), err=True)
        raise
    _write(out, study)
    click.echo(tally(study, time.monotonic() - began), err=True)
    if found := best(study):
        click.echo(found, err=out == STANDARD)
    return bool(found)


class Seen:
    """Keeps the study from its first finished trial on: a search that is interrupted does not return it."""

    def __init__(self) -> None:
        self.study: optuna.Study | None = None

    def __call__(self, study: optuna.Study, trial: Any) -> None:
        """Be told of a trial."""
        self.study = study


def tally(study: optuna.Study, seconds: float) -> str:
    """Say in a line what became of the trials, with a line for each of the first failures."""
    states = Counter(trial.state.name.lower() for trial in study.trials)
    named = {"complete": "with a value", "fail": "failed"}
    counts = ", ".join(f"{count:,} {named.get(state, state)}" for state, count in sorted(states.items()))
    total = states.total()
    lines = [f"{total:,} trial{'s' * (total != 1)} in the study after {seconds:.1f} s: {counts or 'none'}"]
    failures = [trial for trial in study.trials if trial.state.name == "FAIL"]
    for trial in failures[:SHOWN]:
        lines.append(f"  Trial {trial.number}: {str(trial.user_attrs.get('error', 'unknown')).partition(chr(10))[0]}")
    if len(failures) > SHOWN:
        lines.append(f"  and {len(failures) - SHOWN:,} more")
    return "\n".join(lines)


def best(study: optuna.Study) -> str:
    """Return the best trial as text; of several objectives those of which none is better in all; "" where there is none."""
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        return ""
    trials = [study.best_trial] if len(study.directions) == 1 else study.best_trials
    lines = []
    for trial in trials:
        lines.append(f"{'Best trial' if len(trials) == 1 else 'Trial'} {trial.number}: {', '.join(map(str, trial.values))}")
        lines += [f"  {name} = {value}" for name, value in trial.params.items()]
    head = [f"{len(trials):,} trials of which none is better in all objectives"] if len(trials) > 1 else []
    return "\n".join([*head, *lines])


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """Return a row a trial, of values of JSON."""
    from sparkgap.tuning.marks import MARK

    return [
        {
            "number": trial.number, "state": trial.state.name.lower(), "values": trial.values, "params": dict(trial.params),
            "user_attrs": {name: value for name, value in trial.user_attrs.items() if name != MARK},
            "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
            "started": trial.datetime_start and trial.datetime_start.isoformat(),
            "seconds": trial.duration and trial.duration.total_seconds(),
        }
        for trial in study.trials
    ]  # fmt: skip


def _write(out: str | None, study: optuna.Study) -> None:
    if out is None:
        return
    if out.endswith(".parquet"):
        return _write_table(out, rows(study))
    text = "".join(json.dumps(row) + "\n" for row in rows(study))
    if out == STANDARD:
        sys.stdout.write(text)
    else:
        Path(out).write_text(text, encoding="utf-8")


def _write_table(out: str, found: list[dict[str, Any]]) -> None:
    """Write trials with a column a parameter; attributes and values on the way are JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in found for name in row["params"]))
    columns: dict[str, Any] = {
        "number": [row["number"] for row in found],
        "state": [row["state"] for row in found],
        "values": pa.array([row["values"] for row in found], pa.list_(pa.float64())),
        **{f"params_{name}": _column([row["params"].get(name) for row in found]) for name in names},
        **{name: [json.dumps(row[name]) for row in found] for name in ("user_attrs", "intermediate_values")},
        "started": pa.array([row["started"] for row in found], pa.string()),
        "seconds": pa.array([row["seconds"] for row in found], pa.float64()),
    }
    pq.write_table(pa.table(columns), out)


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # choices of several types
        return pa.array([None if value is None else json.dumps(value) for value in values])


def _interrupted(study: optuna.Study | None, storage: str | None) -> str:
    count = 0 if study is None else sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)
    kept = f"{storage} has them: the same command goes on from there" if storage else "storage would have kept them"
    return f"Cancelled with {count:,} finished trials; {kept}."
