"""`gap.run`: independent tasks on Spark."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.monitor.driver import Opened, monitor
from sparkgap.scheduled import identity, ways
from sparkgap.scheduled.bench import Program
from sparkgap.scheduled.data import WithData, refs_of
from sparkgap.scheduled.handle import TaskRun
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Ending
from sparkgap.scheduled.placed import PlacedRef
from sparkgap.scheduled.resources import Placement, placement
from sparkgap.scheduled.runner import Item, Options, Runner, Way

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run(
    fn: Callable[..., Any],
    items: Iterable[Any],
    *,
    parallel: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    backoff: float = 1.0,
    on_error: Literal["raise", "collect"] = "raise",
    fresh: bool = False,
    preload: Sequence[str] = (),
    result_limit: int | str = "256m",
    journal: str | Path | None = None,
    key: Callable[[Any], Any] | str | None = None,
    data: Mapping[str, Any] | None = None,
    name: str | None = None,
    spark: SparkSession | None = None,
) -> TaskRun:
    """Run a function on many items, each as a task of its own on the cluster.

    Returns at once. The function runs on the executors, in a process that sparkgap supervises: what it prints, reports
    (`gap.report`) and shows is seen while it runs, and whatever it does to its process, its item gets one outcome.

    Args:
        fn: called with one item; anything that cloudpickle takes.
        items: any iterable; one that has no length is read as it is needed.
        parallel: tasks at the same time; by default as many as the cluster runs, also while it grows.
        cpus: cores a task, which its libraries use as threads; Spark's ``spark.task.cpus`` by default.
        gpus: GPUs a task, fractions too, where Spark has them.
        memory: resident memory of a task's processes above which they are killed: bytes, or ``"2g"``.
        timeout: seconds an attempt may take.
        retries: further attempts of an item that failed in any way. An executor that vanishes costs none of them.
        backoff: seconds before the first retry; doubled before each further one.
        on_error: ``"raise"`` ends the run at the first item without a value; ``"collect"`` goes on.
        fresh: give each item a new process. By default one process works on many items, one after the other.
        preload: modules that are imported before such processes begin, so that each need not: ``("torch",)``.
        result_limit: bytes of a pickled value at most; larger ones belong in files.
        journal: file that keeps the outcomes; the same call finds there what has a value, and runs the rest.
        key: what names an item in the journal: a function of it, or a key or attribute; by default all of its content.
        data: values that each node gets once, memory-mapped and shared by its tasks: arrays, tables, DataFrames, folders;
            they are passed to the function as keyword arguments.
        name: of the run, for those who look on; the function's by default.
        spark: the session; the active one by default.

    Returns:
        The run: iterate it for outcomes in the order of the items, or use ``as_completed()``, ``values()``, ``to_df()``.

    Raises:
        ConfigurationError: an option makes no sense, or the function cannot be pickled.
        SessionError: there is no session.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session()
        >>> gap.run(lambda n: n * n, range(4)).values()
        [0, 1, 4, 9]
    """
    _check(fn, retries, backoff, on_error)
    spark = spark or _spark.active_session()
    place = placement(spark, cpus=cpus, gpus=gpus, parallel=parallel)
    limits = limits_of(
        place, timeout=timeout, memory=memory, fresh=fresh, preload=preload, result_limit=size_of("result_limit", result_limit)
    )
    kept = Journal.open(journal, _qualified(fn)) if journal is not None else Journal.temporary()
    try:
        return start(
            spark, fn, _items(items, key, named=journal is not None), kept,
            title=name or _qualified(fn).rpartition(".")[2],
            details={"items": f"{len(items):,}" if isinstance(items, Sized) else "as they come"},
            place=place, limits=limits, data=data or {},
            options=Options(_at_most(items, place.parallel), retries, backoff, on_error == "raise"),
            sequence=items if isinstance(items, Sequence) else None,
        )  # fmt: skip
    except BaseException:
        kept.close()
        raise


def start(
    spark: SparkSession,
    fn: Callable[..., Any],
    items: Iterator[Item],
    kept: Journal,
    *,
    title: str,
    details: Mapping[str, str],
    place: Placement,
    limits: Mapping[str, Any],
    data: Mapping[str, Any],
    options: Options,
    kind: str = "run",
    sequence: Sequence[Any] | None = None,
    told: Callable[[Item, Ending], None] | None = None,
    asked: Callable[[Item, Any], Any] | None = None,
) -> TaskRun:
    """Start a run whose items and options have been looked at; what all verbs of this pattern end in.

    Args:
        spark: the session.
        fn: the function.
        items: what to run.
        kept: where outcomes go; it is the run's from now on.
        title: for people.
        details: facts for people.
        place: where slots can be.
        limits: of `Program`.
        data: values for each node.
        options: how the run behaves.
        kind: of the run, for the monitor.
        sequence: the items, where they can be had again by index.
        told: see `Runner`.
        asked: see `Runner`.

    Raises:
        ConfigurationError: the function cannot be pickled, or a value of `data` cannot be placed.
        SessionError: the executors cannot reach this process, and `asked` needs that.
    """
    host = ways.host_of(spark, questions=asked is not None)
    pack = partial(_packed, spark, fn, data, limits)
    program, refs = pack()
    opened = monitor().open(spark, kind, title, {**details, "parallel": str(options.parallel)})
    program = replace(program, monitored=opened.address is not None)
    fallback = None
    if host is None:
        way = ways.over_jobs(spark, opened.run, program, refs, place, opened.address, far=False)
    else:
        way = ways.over_tcp(spark, opened.run, program, refs, place, opened.address, host=host)
        if asked is None and ways.wanted_channel(spark) == "auto":
            fallback = partial(_fallback, spark, opened, pack, place)
    runner = Runner(items, way, kept, fallback=fallback, pickled=_pickled, options=options, told=told, asked=asked)
    runner.start()
    monitor().store.stoppable(opened.run, runner)
    return TaskRun(opened.run, runner, sequence, spark)


def _packed(
    spark: SparkSession, fn: Callable[..., Any], data: Mapping[str, Any], limits: Mapping[str, Any], *, far: bool = False
) -> tuple[Program, tuple[PlacedRef, ...]]:
    """Return what tasks run, and the values that it is given."""
    refs = refs_of(spark, fn, data, far=far) if data else {}
    return Program(function=_pickled_function(WithData(fn, refs) if refs else fn), **limits), tuple(refs.values())


def _fallback(spark: SparkSession, opened: Opened, pack: Callable[..., Any], place: Placement) -> Way:
    """Return the other way, for executors that turn out to be elsewhere: they see neither this process nor its files."""
    program, refs = pack(far=True)
    channel = opened.address if opened.address is not None and opened.address.folder else None
    return ways.over_jobs(
        spark, opened.run, replace(program, monitored=channel is not None), refs, place, channel, far=True
    )  # fmt: skip


def _items(items: Iterable[Any], key: Any, *, named: bool) -> Iterator[Item]:
    remembered = isinstance(items, Sequence)
    if not named:
        for index, item in enumerate(items):
            yield Item(index, item, b"", b"" if remembered else _pickled(item))
        return
    both, again = _twice(items)
    for index, (item, name) in enumerate(zip(both, identity.keys(again, key), strict=True)):
        yield Item(index, item, name, b"" if remembered else _pickled(item))


def _twice(items: Iterable[Any]) -> tuple[Iterator[Any], Iterator[Any]]:
    from itertools import tee

    one, two = tee(items)  # read in step, so it holds one item
    return one, two


def _pickled(value: Any) -> bytes:
    from pyspark import cloudpickle

    made: bytes = cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return made


def _pickled_function(fn: Callable[..., Any]) -> bytes:
    try:
        return _pickled(fn)
    except Exception as error:  # of any class: it is about the user's objects
        raise ConfigurationError(
            f"The function {getattr(fn, '__qualname__', fn)!r} cannot be sent to tasks: pickling it raised "
            f"{type(error).__name__}: {error}. Make such objects (sessions, locks, connections) inside the function."
        ) from error


def _qualified(fn: Callable[..., Any]) -> str:
    home = type(fn) if not hasattr(fn, "__qualname__") else fn
    return f"{home.__module__}.{home.__qualname__}"


def _check(fn: Any, retries: int, backoff: float, on_error: str) -> None:
    if not callable(fn):
        raise ConfigurationError(f"gap.run takes a function and items; the function is a {type(fn).__name__}.")
    if retries < 0 or backoff < 0:
        raise ConfigurationError(f"retries={retries!r}, backoff={backoff!r}: neither may be below 0.")
    if on_error not in ("raise", "collect"):
        raise ConfigurationError(f"on_error={on_error!r}: 'raise' or 'collect'.")


def limits_of(
    place: Placement, *, timeout: float | None, memory: int | str | None, fresh: bool, preload: Sequence[str], **others: Any
) -> dict[str, Any]:
    """Return the fields of `Program` that options give.

    Raises:
        ConfigurationError: one makes no sense.
    """
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"timeout={timeout!r}: seconds above 0, or None for no limit.")
    return {
        "timeout": timeout, "memory": None if memory is None else size_of("memory", memory), "threads": place.cpus,
        "fresh": fresh, "preload": tuple(preload), **others,
    }  # fmt: skip


def size_of(name: str, size: int | str) -> int:
    """Return bytes of ``"2g"`` and the like.

    Raises:
        ConfigurationError: it is no size; `name` tells which option.
    """
    if isinstance(size, int):
        found = size
    else:
        try:
            found = int(float(size[:-1]) * {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[size[-1:].lower()])
        except (KeyError, ValueError):
            found = 0
    if found <= 0:
        raise ConfigurationError(f"{name}={size!r}: bytes above 0, or a number with k, m, g or t, like '2g'.")
    return found


def _at_most(items: Iterable[Any], parallel: int) -> int:
    return max(1, min(parallel, len(items))) if isinstance(items, Sized) else parallel
