"""`gap.train`: one function on many workers that work together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, RankError
from sparkgap.cooperative.feeding import Feed, source_of
from sparkgap.cooperative.gang import Crew, Gang
from sparkgap.cooperative.process_groups import preload_for
from sparkgap.cooperative.rank import Place, RankPlan, RankTask, backend_for
from sparkgap.cooperative.stream_feed import StreamRows
from sparkgap.cooperative.streaming import Passes, workers_beside
from sparkgap.cooperative.worker import Worker
from sparkgap.scheduled.data import check_names
from sparkgap.scheduled.resources import placement

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.shards.dataset import Shards

_log = logging.getLogger("sparkgap.train")

DEADLINE = 600.0
"""Seconds that ranks wait for each other, unless told otherwise."""
_ROWS = "sparkgap_rows"
"""Name of the placed value that is a folder of shards to train on."""
_RETRIED = ("signal", "lost", "memory", "aborted", "absent")
"""Ways to fail that another attempt may not meet again; an exception would come again."""


@dataclass(frozen=True)
class TrainResult:
    """What came of `gap.train`.

    Attributes:
        value: what the function returned in rank 0.
        values: what it returned in each rank; those after rank 0 only with ``returns="all"``.
        attempts: how often the gang was begun.
        seconds: from the call to the end.
    """

    value: Any
    values: list[Any]
    attempts: int
    seconds: float


@dataclass(frozen=True)
class MakeWorker:
    """Makes the worker of a rank, in its process.

    Args:
        data: what to train on.
        checkpoint: folder for progress.
        keep: checkpoints to keep.
    """

    data: Shards | StreamRows | None
    checkpoint: str | None
    keep: int

    def __call__(self, place: Place, plan: RankPlan) -> Worker:
        """Make it."""
        kept = None
        if self.checkpoint is not None:
            from sparkgap.cooperative.checkpoints import Checkpoints

            kept = Checkpoints(self.checkpoint, keep=self.keep)
        data = self.data.bound(place, plan) if isinstance(self.data, StreamRows) else self.data
        return Worker(place, plan, data, kept)


@dataclass(frozen=True)
class PlacedTask:
    """The function of a gang, as a function of a rank and of the values that its node has.

    Args:
        plan: what all ranks know.
        work: the user's function, of a worker.
        make: makes the worker.
    """

    plan: RankPlan
    work: Callable[..., Any]
    make: MakeWorker

    def __call__(self, rank: int, **values: Any) -> Any:
        """Be one rank."""
        from sparkgap.shards.dataset import open_shards

        folder = values.pop(_ROWS, None)
        make = self.make if folder is None else replace(self.make, data=open_shards(folder))
        return RankTask(self.plan, partial(self.work, **values) if values else self.work, make)(rank)


def train(
    fn: Callable[..., Any],
    data: DataFrame | Shards | str | Path | None = None,
    *,
    feed: Feed = "auto",
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    keep: int = 3,
    restarts: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    deadline: float = DEADLINE,
    join_timeout: float = DEADLINE,
    backend: str | None = "auto",
    returns: Literal["first", "all"] = "first",
    preload: Sequence[str] | None = None,
    placed: Mapping[str, Any] | None = None,
    name: str | None = None,
    spark: SparkSession | None = None,
) -> TrainResult:
    """Run one function on many workers at the same time, which train one model together. Blocks until it is over.

    Each worker is a process of its own on an executor, with the environment of ``torchrun`` and a ``torch.distributed``
    process group. If one of them fails, all end within seconds, and the error is that of the one which failed first.

    Args:
        fn: called with a `Worker` in each process; anything that cloudpickle takes.
        data: what ``worker.batches`` gives: a DataFrame, or shards (`gap.open_shards`, or their path), or None.
        feed: how the rows of a DataFrame come to the workers. ``"shards"``: they are written as shards first. ``"broadcast"``:
            they are collected, and put on each node; batches are the same as with shards. ``"stream"``: each epoch is a pass
            over the DataFrame, which Spark computes anew, and whose rows go straight to the workers: nothing is written, and
            little memory is needed. ``"auto"``: ``"broadcast"`` where the DataFrame is small, else ``"shards"``, and
            ``"stream"`` only where there is no folder for shards.
        workers: how many; by default as many as the cluster runs at the same time, and three quarters of that with
            ``feed="stream"``, which needs slots to compute the rows in.
        checkpoint: folder that all machines share, for ``worker.save`` and ``worker.restore``.
        keep: checkpoints to keep.
        restarts: how often to begin anew after a worker died, vanished or hung; by default 2 with a checkpoint folder, else
            never. An exception is not tried again.
        cpus: cores a worker, which its libraries use as threads.
        gpus: GPUs a worker.
        memory: resident memory of a worker above which it is killed: bytes, or ``"8g"``.
        timeout: seconds that all of it may take.
        deadline: seconds that workers wait for each other, in every collective; then the one that hangs is named.
        join_timeout: seconds until all workers must have begun.
        backend: of ``torch.distributed``; ``"auto"``: gloo, with nccl where there are GPUs, if torch is installed; ``"jax"``:
            ``jax.distributed``; ``"tensorflow"``: ``TF_CONFIG``, as ``MultiWorkerMirroredStrategy`` reads it; None for no
            process group. ``worker.average`` needs one of ``torch.distributed``.
        returns: ``"first"``: the value of rank 0 goes to the driver; ``"all"``: those of all ranks.
        preload: modules that are imported before processes begin; by default torch where it has a process group.
        placed: values that each node gets once, memory-mapped; passed to the function by name, see `gap.run`.
        name: of the run, for those who look on; the function's by default.
        spark: the session; the active one by default.

    Returns:
        The value of the function.

    Raises:
        ConfigurationError: an option makes no sense, or the function cannot be pickled.
        SessionError: the cluster cannot run so many workers at the same time.
        RankError: a worker failed: which, how, and its own traceback.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session()
        >>> gap.train(lambda worker: worker.gather(worker.rank), workers=2).value
        [0, 1]
    """
    if not callable(fn):
        raise ConfigurationError(f"gap.train takes a function of a worker; this is a {type(fn).__name__}.")
    _check(workers=workers, keep=keep, deadline=deadline, join_timeout=join_timeout, returns=returns)
    check_names(fn, placed or {})
    spark = spark or _spark.active_session()
    place = placement(spark, cpus=cpus, gpus=gpus, parallel=None)
    began = time.monotonic()
    with source_of(data, spark, feed) as source:
        world = workers_beside(spark, place, workers) if source.stream else place.parallel if workers is None else workers
        plan = RankPlan(
            world, _spark.driver_host(spark) or "127.0.0.1", join_timeout, deadline, backend_for(backend, gpus), returns
        )
        values = {**(placed or {}), **({_ROWS: source.folder} if source.folder else {})}
        crew = Crew(
            world, place, join_timeout, timeout, memory,
            tuple(preload) if preload is not None else preload_for(plan.backend), values,
            title=name or getattr(fn, "__qualname__", type(fn).__qualname__).rpartition(".")[2], details=source.details,
        )  # fmt: skip
        most = restarts if restarts is not None else 2 if checkpoint is not None else 0
        make = MakeWorker(source.shards or source.stream, None if checkpoint is None else str(checkpoint), keep)
        passes = partial(Passes, data, source.stream) if source.stream else nullcontext
        found, attempts = _attempts(spark, crew, PlacedTask(plan, fn, make), passes, most)
    return TrainResult(found[0], found, attempts, time.monotonic() - began)


def _attempts(
    spark: SparkSession, crew: Crew, task: PlacedTask, opened: Callable[[], Any], most: int
) -> tuple[list[Any], int]:
    """Run a gang until one comes to its end."""
    for attempt in range(most + 1):
        again = replace(task, plan=replace(task.plan, restarts=attempt))
        with opened() as passes:
            try:
                return Gang(crew, again, passes and passes.answer).run(spark), attempt + 1
            except RankError as error:
                cause = error if passes is None else passes.failure(error)
                if cause is not error:
                    raise cause from cause.__cause__
                if attempt == most or error.kind not in _RETRIED:
                    raise
                _log.warning("%s It is begun anew (%d of %d).", error.message, attempt + 1, most)
    raise AssertionError("unreachable")


def _check(*, workers: int | None, keep: int, deadline: float, join_timeout: float, returns: str) -> None:
    for name, number in (("workers", workers), ("keep", keep)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ConfigurationError(f"{name}={number!r}: a whole number above 0.")
    for name, seconds in (("deadline", deadline), ("join_timeout", join_timeout)):
        if not seconds > 0:
            raise ConfigurationError(f"{name}={seconds!r}: seconds above 0.")
    if returns not in ("first", "all"):
        raise ConfigurationError(f"returns={returns!r}: 'first' or 'all'.")
