"""`gap.nested_cv`: how good a model is whose hyper-parameters were searched for, by cross-validation in cross-validation."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, RunError
from sparkgap._optional import need
from sparkgap.scheduled.api import limits_of, run, start
from sparkgap.scheduled.data import check_names
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Ending
from sparkgap.scheduled.resources import placement
from sparkgap.scheduled.runner import Item, Options
from sparkgap.tuning import grid as grids
from sparkgap.tuning import marks, splits
from sparkgap.tuning.conductor import Conductor, Limits
from sparkgap.tuning.nested_result import FoldResult, NestedCV
from sparkgap.tuning.nested_task import SPLITS, InnerTask, OuterTask
from sparkgap.tuning.remote import StudyFacts
from sparkgap.tuning.studies import directions_of, open_study

if TYPE_CHECKING:
    import optuna
    from pyspark.sql import SparkSession

TRIALS = 20
"""Of an outer fold, where neither `trials` nor a grid is given."""


def nested_cv(
    objective: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    folds: Any = 5,
    inner: Any = 3,
    trials: int | None = None,
    grid: Any = None,
    direction: str | optuna.study.StudyDirection = "minimize",
    stratify: Any = None,
    groups: Any = None,
    seed: int = 0,
    sampler: Callable[..., optuna.samplers.BaseSampler] | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    parallel: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    trial_timeout: float | None = None,
    fresh: bool = False,
    preload: Sequence[str] = (),
    catch: bool = True,
    spark: SparkSession | None = None,
) -> NestedCV:
    """Estimate by nested cross-validation how good a model is, with the search for its hyper-parameters. Blocks until then.

    Each outer fold holds rows out and has a study of Optuna of its own on the others. A trial is one task: it calls the
    objective for each inner fold, and its value is the mean. With the best parameters of its study, the objective is called
    once more for each outer fold: on all its rows for training, and scored on those held out, which no trial has seen. The
    trials of all outer folds take turns in one run, so that the cluster is busy to the end.

    Args:
        objective: called with a trial, the rows to train on, the rows to test on (sorted index arrays), and the values of
            `data` by name; returns the score on the test rows.
        data: arrays, tables or DataFrames with a row each for the same things, placed once on each node; folders, too.
        folds: how many outer folds, or a splitter of scikit-learn.
        inner: likewise of the inner ones.
        trials: of each outer fold; 20 by default.
        grid: what to try, instead of `trials`; see `gap.search`.
        direction: ``"minimize"`` or ``"maximize"``.
        stratify: classes of the rows, whose shares each fold is to have: a name in `data`, or an array.
        groups: of the rows, likewise; a group is never both in training and in test.
        seed: of the splitters and samplers.
        sampler: makes the sampler of an outer fold from ``seed=``, such as ``optuna.samplers.RandomSampler``; by default TPE.
        pruner: asked after each inner fold, with the mean so far; the objective then must not report. By default no trial is
            pruned between inner folds.
        parallel: trials at the same time; by default as many as the cluster runs.
        cpus: cores a trial.
        gpus: GPUs a trial, fractions too.
        memory: resident memory above which a trial is killed: bytes, or ``"2g"``.
        trial_timeout: seconds a trial may take, with all its inner folds.
        fresh: give each trial a new process.
        preload: modules that are imported before such processes begin.
        catch: whether to go on after a failed trial; if not, the first one ends all.
        spark: the session; the active one by default.

    Raises:
        ConfigurationError: an option makes no sense, or rows cannot be split so.
        MissingDependencyError: Optuna or scikit-learn is not installed.
        TaskError: the objective failed with the best parameters of an outer fold, or in a trial and ``catch=False``.
        RunError: no trial of an outer fold has a value, or the run could not go on.

    Example:
        >>> import numpy as np, sparkgap as gap
        >>> spark = gap.session()
        >>> def objective(trial, train, test, y):
        ...     return float(np.abs(y[test] - trial.suggest_float("guess", 0, 10)).mean())
        >>> result = gap.nested_cv(objective, {"y": np.arange(10.0)}, folds=2, inner=2, trials=4)
        >>> len(result.scores)
        2
    """
    package = need("optuna", extra="search", why="to search for hyper-parameters")
    data, count = _checked(objective, data, trials, grid)
    codes = splits.nested(
        count, folds=folds, inner=inner, seed=seed, stratify=_column(data, stratify, "stratify", count),
        groups=_column(data, groups, "groups", count),
    )  # fmt: skip
    make = sampler or (lambda seed: package.samplers.TPESampler(seed=seed, constant_liar=parallel != 1))
    studies = [
        open_study(
            objective, None, storage=None, name=None, direction=direction, directions=None, sampler=make(seed=seed + fold),
            pruner=pruner, sequential=False,
        )
        for fold in range(len(codes))
    ]  # fmt: skip
    facts = tuple(StudyFacts(study.study_name, directions_of(study)) for study in studies)
    options: dict[str, Any] = {
        "spark": spark or _spark.active_session(), "data": {**data, SPLITS: codes}, "parallel": parallel, "cpus": cpus,
        "gpus": gpus, "memory": memory, "timeout": trial_timeout, "fresh": fresh, "preload": tuple(preload),
    }  # fmt: skip
    with marks.alive(uuid.uuid4().hex) as mark:
        turns = Turns(_conductors(studies, mark, trials, grid))
        _conduct(InnerTask(objective, facts, pruner is not None), turns, catch=catch, **options)
    best = [_best(fold, study) for fold, study in enumerate(studies)]
    items = [(fold, trial.number, trial.params) for fold, trial in enumerate(best)]
    with run(OuterTask(objective, facts), items, name=_name(objective), **options) as last:
        scores = last.values()
    sizes = [[len(rows) for rows in splits.indices(code[0])] for code in codes]
    return NestedCV(
        tuple(
            FoldResult(fold, dict(trial.params), float(trial.values[0]), scores[fold], studies[fold], *sizes[fold])
            for fold, trial in enumerate(best)
        )
    )


class Turns:
    """The studies of the outer folds as one run: they begin trials in turn.

    Args:
        conductors: of the outer folds.
    """

    def __init__(self, conductors: Sequence[Conductor]) -> None:
        self._conductors = list(conductors)

    def items(self) -> Iterator[Item]:
        """Give fold and number of trials, each begun as it is given, until no study begins one any more."""
        going = {fold: conductor.numbers() for fold, conductor in enumerate(self._conductors)}
        index = 0
        while going:
            for fold in list(going):
                number = next(going[fold], None)
                if number is None:
                    del going[fold]
                    continue
                yield Item(index, (fold, number))
                index += 1

    def told(self, item: Item, ending: Ending) -> None:
        """Tell a study how a trial ended."""
        fold, number = item.value
        self._conductors[fold].told(number, ending)

    def asked(self, item: Item, question: Any) -> Any:
        """Answer a question of a trial."""
        fold, number = item.value
        return self._conductors[fold].asked(number, question)

    def close(self, why: str) -> None:
        """Begin no more trials; those that still ran have failed."""
        for conductor in self._conductors:
            conductor.close(why)


def _conductors(studies: Sequence[optuna.Study], mark: Mapping[str, Any], trials: int | None, grid: Any) -> list[Conductor]:
    if grid is None:
        return [Conductor(study, mark, Limits(trials or TRIALS)) for study in studies]
    rows = grids.rows_of(grid)
    choices = grids.choices_of(rows)
    return [Conductor(study, mark, Limits(grids.enqueue(study, rows, mark)), grid=choices) for study in studies]


def _conduct(
    task: InnerTask, turns: Turns, *, spark: SparkSession, data: Mapping[str, Any], catch: bool, **options: Any
) -> None:
    """Run the trials of all studies to their end."""
    place = placement(spark, cpus=options["cpus"], gpus=options["gpus"], parallel=options["parallel"])
    limits = limits_of(place, **{name: options[name] for name in ("timeout", "memory", "fresh", "preload")})
    try:
        with start(
            spark, task, turns.items(), Journal.temporary(), title=_name(task.objective),
            details={"folds": str(len(task.facts))}, place=place, limits=limits, data=data,
            options=Options(place.parallel, stop_at_first=not catch, single=True, losses=0), kind="search",
            told=turns.told, asked=turns.asked,
        ) as started:  # fmt: skip
            started.wait()
            if started.error is not None:
                raise started.error
    finally:
        turns.close("The run ended before this trial.")


def _best(fold: int, study: optuna.Study) -> optuna.trial.FrozenTrial:
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not done:
        failed = next((t.user_attrs["error"] for t in study.trials if "error" in t.user_attrs), "all were pruned")
        raise RunError(
            f"No trial of outer fold {fold} has a value; there were {len(study.trials):,}. The first failure: {failed}"
        )
    return study.best_trial


def _checked(objective: Any, data: Mapping[str, Any], trials: int | None, grid: Any) -> tuple[dict[str, Any], int]:
    """Return the data, Spark's DataFrames collected once, and its number of rows."""
    if not callable(objective):
        raise ConfigurationError(f"gap.nested_cv takes a function of a trial; this is a {type(objective).__name__}.")
    if trials is not None and (grid is not None or not isinstance(trials, int) or trials < 1):
        raise ConfigurationError(f"trials={trials!r}: a whole number above 0, or None; with grid= leave it out.")
    reserved = {"train", "test", SPLITS} & set(data)
    if reserved:
        raise ConfigurationError(f"data= has {', '.join(sorted(reserved))}, which the objective gets anyway. Rename them.")
    check_names(objective, data)
    found = {name: value.toArrow() if hasattr(value, "toArrow") else value for name, value in data.items()}
    counts = {name: len(value) for name, value in found.items() if not isinstance(value, str | os.PathLike)}
    if len(set(counts.values())) != 1:
        raise ConfigurationError(
            f"data= has {', '.join(f'{n}: {c:,} rows' for n, c in counts.items()) or 'nothing with rows'}. Give arrays or "
            "tables with the same number of rows, which the folds are of."
        )
    return found, next(iter(counts.values()))


def _column(data: Mapping[str, Any], given: Any, option: str, rows: int) -> np.ndarray | None:
    if given is None:
        return None
    if isinstance(given, str) and given not in data:
        raise ConfigurationError(f"{option}={given!r}: data= has no such name; it has {', '.join(data)}.")
    column = np.asarray(data[given] if isinstance(given, str) else given)
    if column.shape != (rows,):
        raise ConfigurationError(f"{option}= has the shape {column.shape}; give one value for each of the {rows:,} rows.")
    return column


def _name(objective: Any) -> str:
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))
