"""`gap.search`: studies of Optuna whose trials are tasks on Spark."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.monitor.driver import monitor
from sparkgap.scheduled.api import limits_of, start
from sparkgap.scheduled.data import check_names
from sparkgap.scheduled.handle import TaskRun
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.resources import placement
from sparkgap.scheduled.runner import Item, Options
from sparkgap.tuning import grid as grids
from sparkgap.tuning import marks
from sparkgap.tuning.conductor import Callback, Conductor, Limits, finished
from sparkgap.tuning.kept import KeptFolder
from sparkgap.tuning.remote import StudyFacts, TrialTask
from sparkgap.tuning.studies import directions_of, open_study

if TYPE_CHECKING:
    import optuna
    from pyspark.sql import SparkSession


def search(
    objective: Callable[..., Any],
    *,
    trials: int | None = None,
    timeout: float | None = None,
    patience: int | None = None,
    direction: str | optuna.study.StudyDirection | None = None,
    directions: Sequence[str | optuna.study.StudyDirection] | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    storage: str | Path | optuna.storages.BaseStorage | None = None,
    study_name: str | None = None,
    study: optuna.Study | None = None,
    grid: Any = None,
    parallel: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    trial_timeout: float | None = None,
    fresh: bool = False,
    preload: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    catch: bool = True,
    checkpoint: str | Path | None = None,
    keep: int = 1,
    callbacks: Sequence[Callback] = (),
    spark: SparkSession | None = None,
) -> optuna.Study:
    """Search for hyper-parameters with Optuna; each trial is a task of its own on the cluster. Blocks until it is over.

    The study, its sampler and its pruner are Optuna's and stay in this process. The objective runs on the executors, which
    need no Optuna; its trial has the methods of ``optuna.Trial``, so the same objective works with ``study.optimize``. The
    next trial is begun when a task is free, and knows all that has finished by then.

    A trial that raises, runs too long, or loses its process has failed in the study, with the user attributes ``kind``,
    ``error``, ``traceback`` and ``output``. It is never run again.

    Args:
        objective: called with a trial (and the values of `data`, by name); returns a float, or one for each direction.
        trials: finished trials that the study is to have in the end, those of earlier searches included. Trials that ended
            with their driver do not count.
        timeout: seconds after which no trial is begun; those that run come to their end. See `trial_timeout`.
        patience: begin no more after so many finished trials without a new best one.
        direction: ``"minimize"`` or ``"maximize"``; a new study minimizes by default.
        directions: likewise of several objectives. Optuna does not prune these.
        sampler: by default Optuna's, with ``constant_liar=True`` unless ``parallel=1``: trials that run at the same time shall
            not try the same point. A sampler that you give, or that `study` has, is used as it is.
        pruner: Optuna's ``MedianPruner`` by default.
        storage: keeps the study: a URL for Optuna, one of its storages, or a path that ends in ``.log`` or ``.journal``. A
            study that is there goes on.
        study_name: of the study in the storage; by default the objective's module and name.
        study: the study itself, instead of all options that would make one.
        grid: what to try, instead of `trials`: a dict of lists (all combinations), a list of dicts, or an Arrow table, pandas
            or Spark DataFrame with a row a trial. The objective suggests these names, or reads ``trial.params``.
        parallel: trials at the same time; by default as many as the cluster runs, also while it grows.
        cpus: cores a trial; Spark's ``spark.task.cpus`` by default.
        gpus: GPUs a trial, fractions too.
        memory: resident memory above which a trial is killed: bytes, or ``"2g"``.
        trial_timeout: seconds a trial may take.
        fresh: give each trial a new process.
        preload: modules that are imported before such processes begin.
        data: values that each node gets once, memory-mapped; see `gap.run`.
        catch: whether to go on after a failed trial; if not, the first one ends the search.
        checkpoint: folder that all machines share, for ``trial.keep(value)``: see `sparkgap.tuning.kept.best_of`.
        keep: how many of the best trials keep their value there.
        callbacks: called with the study and each finished trial, on the driver, in a thread of the run; ``study.stop()``
            works. What one raises ends the search.
        spark: the session; the active one by default.

    Returns:
        The study.

    Raises:
        ConfigurationError: an option makes no sense.
        MissingDependencyError: Optuna is not installed.
        TaskError: a trial failed, and ``catch=False``.
        RunError: the run could not go on. What had finished is in the study.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session()
        >>> study = gap.search(lambda trial: trial.suggest_float("x", -5, 5) ** 2, trials=8)
        >>> len(study.trials)
        8
    """
    _check(
        objective,
        trials=trials,
        timeout=timeout,
        patience=patience,
        grid=grid,
        parallel=parallel,
        callbacks=callbacks,
        keep=keep,
    )
    check_names(objective, data or {})
    rows = None if grid is None else grids.rows_of(grid)
    study = open_study(
        objective, study, storage=storage, name=study_name, direction=direction, directions=directions, sampler=sampler,
        pruner=pruner, sequential=parallel == 1,
    )  # fmt: skip
    kept = None if checkpoint is None else KeptFolder.of(checkpoint, study.study_name, keep)
    marks.end_stale(study)
    with marks.alive(uuid.uuid4().hex) as mark:
        conductor = Conductor(
            study, mark, Limits(_left(study, trials, rows, mark), timeout, patience), callbacks=callbacks,
            grid=None if rows is None else grids.choices_of(rows), kept=kept,
        )  # fmt: skip
        task = TrialTask(objective, StudyFacts(study.study_name, directions_of(study), kept))
        _conduct(
            conductor, task, spark, parallel=parallel, cpus=cpus, gpus=gpus, memory=memory, timeout=trial_timeout, fresh=fresh,
            preload=tuple(preload), data=data, on_error="collect" if catch else "raise",
            name=getattr(objective, "__qualname__", type(objective).__qualname__),
        )  # fmt: skip
    return study


def _left(study: optuna.Study, trials: int | None, rows: list[grids.Row] | None, mark: Mapping[str, Any]) -> int | None:
    """Return how many trials are still to begin; of a grid, those that wait."""
    if rows is not None:
        return grids.enqueue(study, rows, mark)
    return None if trials is None else max(0, trials - finished(study))


def _conduct(conductor: Conductor, task: TrialTask, spark: SparkSession | None, **options: Any) -> None:
    """Run trials until none comes any more; starts no tasks where none is to come."""
    if conductor.enough():
        return
    why = "The search ended before this trial."
    try:
        with _launch(spark, task, conductor, **options) as run:
            run.wait()
            if run.error is not None:
                raise run.error
    except BaseException as error:
        why = f"The search was ended by {type(error).__name__}."
        raise
    finally:
        conductor.close(why)


def _launch(spark: SparkSession | None, task: TrialTask, conductor: Conductor, **options: Any) -> TaskRun:
    """Start the tasks. A trial whose executor vanishes has failed: losses=0, retries=0."""
    spark = spark or _spark.active_session()
    place = placement(spark, cpus=options["cpus"], gpus=options["gpus"], parallel=options["parallel"])
    limits = limits_of(place, **{name: options[name] for name in ("timeout", "memory", "fresh", "preload")})
    run = start(
        spark, task, (Item(index, number) for index, number in enumerate(conductor.numbers())), Journal.temporary(),
        title=options["name"], place=place, limits=limits, data=options["data"] or {},
        details={"study": task.facts.study_name, "direction": ", ".join(task.facts.directions)},
        options=Options(place.parallel, stop_at_first=options["on_error"] == "raise", single=True, losses=0), kind="search",
        told=lambda item, ending: conductor.told(item.value, ending),
        asked=lambda item, question: conductor.asked(item.value, question),
    )  # fmt: skip
    conductor.board.open(monitor().store, run.run)
    return run


def _check(
    objective: Any, *, trials: int | None, timeout: float | None, patience: int | None, grid: Any, parallel: int | None,
    callbacks: Any, keep: int,
) -> None:  # fmt: skip
    if not callable(objective):
        raise ConfigurationError(f"gap.search takes a function of a trial; this is a {type(objective).__name__}.")
    for name, number in (("trials", trials), ("patience", patience), ("parallel", parallel), ("keep", keep)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ConfigurationError(f"{name}={number!r}: a whole number above 0, or None.")
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"timeout={timeout!r}: seconds above 0, or None for no limit.")
    if grid is not None and trials is not None:
        raise ConfigurationError(f"grid= is given and trials={trials} too; a grid has a trial a row. Leave out trials.")
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        raise ConfigurationError(f"callbacks={callbacks!r}: a list of functions of the study and a trial.")
    if trials is None and timeout is None and patience is None and grid is None and not callbacks:
        raise ConfigurationError("This search would never end. Give trials, timeout, patience or grid.")
