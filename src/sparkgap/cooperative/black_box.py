"""`gap.cooperate`: rows go into workers that talk to each other, and rows come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, SessionError, SignatureError
from sparkgap._machine import detect
from sparkgap._settings import slots_of
from sparkgap.cooperative.barrier_rank import PLACE, BoxPlan, run_box
from sparkgap.cooperative.boxed import Boxed
from sparkgap.cooperative.rank import RankPlan, backend_for
from sparkgap.cooperative.worker import Worker
from sparkgap.monitor.driver import monitor
from sparkgap.scheduled.api import size_of
from sparkgap.scheduled.bench import Program
from sparkgap.scheduled.group_places import places
from sparkgap.scheduled.resources import Placement, placement

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

DEADLINE = 600.0
"""Seconds that ranks wait for each other, unless told otherwise."""


def cooperate(
    df: DataFrame,
    fn: Callable[[Worker, Iterator[Any]], Iterable[Any]],
    schema: str | StructType,
    *,
    workers: int | None = None,
    keys: str | Sequence[str] | None = None,
    repartition: bool = True,
    columns: Sequence[str] | None = None,
    as_blocks: bool = False,
    detach: bool = True,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    deadline: float = DEADLINE,
    join_timeout: float = DEADLINE,
    backend: str | None = "auto",
    preload: Sequence[str] | None = None,
    name: str | None = None,
) -> DataFrame:
    """Pass a DataFrame through workers that talk to each other while they work on it. Lazy: nothing runs until an action.

    Each worker is a process of its own on an executor, supervised, with the environment of ``torchrun`` and a
    ``torch.distributed`` process group, as in `gap.train`. It gets one partition and gives one. All of them run at the same
    time, in a barrier stage: if one fails, Spark ends them all, and its error holds the traceback of the one that failed
    first. Where a worker died, Spark tries again, from the start (``spark.stage.maxConsecutiveAttempts``, 4 times in all).

    Args:
        df: any DataFrame, classic or Connect. Where it is empty, Spark may leave the workers out.
        fn: ``fn(worker, rows)``, a generator. `rows` iterates over the worker's rows, once, as pyarrow RecordBatches; what it
            does not read is passed over. It yields RecordBatches, Tables, pandas DataFrames or dicts of arrays. Rows are
            passed on as they come, in both directions: neither the worker nor Spark has to hold a partition.
        schema: of what it yields: ``"id long, y float"`` or a StructType. Columns are found by name, and cast.
        workers: how many, whatever the number of partitions; by default as many as the cluster runs at the same time.
        keys: columns whose equal values go to the same worker; by default rows are dealt out evenly.
        repartition: False: `df` has `workers` partitions, and each goes to one worker as it is, without a shuffle. It must
            have got them by a shuffle (``repartition``) or as a source; not by ``coalesce`` or ``union``.
        columns: which the workers get; all by default.
        as_blocks: the worker gets dicts of ndarrays instead of RecordBatches.
        detach: what comes out goes through a shuffle, so that any step may follow, and a failure there does not begin the
            workers anew. False saves that; then ``show``, ``limit``, ``take``, ``union`` and ``coalesce`` on it fail, as
            Spark runs barrier stages only as a whole.
        cpus: cores a worker, which its libraries use as threads.
        gpus: GPUs a worker.
        memory: resident memory of a worker above which it is killed: bytes, or ``"8g"``.
        timeout: seconds that a worker may take.
        deadline: seconds that workers wait for each other, in every collective.
        join_timeout: seconds until all workers must have begun, once Spark has begun their tasks.
        backend: of ``torch.distributed``; ``"auto"``: gloo, with nccl where there are GPUs, if torch is installed; None for no
            process group.
        preload: modules that are imported before processes begin; by default torch where it has a process group.
        name: of the run, for those who look on; the function's by default.

    Returns:
        A DataFrame of `schema` with `workers` partitions: what rank 0 gave is the first.

    Raises:
        ConfigurationError: an option makes no sense, or the function cannot be pickled.
        SignatureError: a column has a type that does not reach Python.
        SessionError: the cluster cannot run so many workers at the same time, or uses dynamic allocation.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> def sums(worker, rows):
        ...     mine = sum(sum(batch["id"].to_pylist()) for batch in rows)
        ...     yield {"rank": [worker.rank], "total": [sum(worker.gather(mine))]}
        >>> df = gap.cooperate(spark.range(10), sums, "rank int, total long", workers=2)
        >>> [row.total for row in df.collect()]
        [45, 45]
    """
    spark = df.sparkSession
    _check(fn, workers, deadline, join_timeout, timeout)
    if keys is not None and not repartition:
        raise ConfigurationError("keys= says where rows go, and repartition=False that they stay. Leave one of them away.")
    place = placement(spark, cpus=cpus, gpus=gpus, parallel=None)
    room = _room(spark, place)
    world = room if workers is None else workers
    _check_cluster(spark, world, room, place)
    types = _spark.arrow_types(df.schema)
    named = (keys,) if isinstance(keys, str) else tuple(keys or ())
    wanted = _known(tuple(types) if columns is None else tuple(dict.fromkeys(columns)), types, "columns")
    given = pa.schema([(n, _reaching(types[n], f"Column `{n}`")) for n in wanted])
    out = spark.createDataFrame([], schema).schema if isinstance(schema, str) else schema
    backend = backend_for(backend, gpus)
    work = Boxed(fn, RankPlan(world, "", join_timeout, deadline, backend), _arrow_schema(out), as_blocks)
    title = name or str(getattr(fn, "__name__", type(fn).__name__))
    program = Program(
        _pickled(work, title), fresh=True, preload=tuple(preload) if preload is not None else ("torch",) if backend else (),
        timeout=timeout, memory=None if memory is None else size_of("memory", memory), threads=place.cpus,
    )  # fmt: skip
    opened = monitor().open(spark, "cooperate", title, {"workers": str(world)})
    plan = BoxPlan(
        opened.run, opened.address, program, given, _numbered(_arrow_schema(out)), tuple(places(world)), join_timeout,
        deadline, place.cpus,
    )  # fmt: skip
    frame = _dealt(df, wanted, _known(named, types, "keys"), world) if repartition else _spark.columns(df, wanted)
    return _result(frame, plan, out, place, detach=detach)


def _dealt(df: DataFrame, wanted: tuple[str, ...], keys: tuple[str, ...], world: int) -> DataFrame:
    """Give each worker its rows, of which the keys are those of the whole table, whether or not they are wanted."""
    from pyspark.sql import functions as F

    if not keys:
        return _spark.columns(df, wanted).repartition(world)
    all_ = _spark.columns(df, tuple(dict.fromkeys((*wanted, *keys))))
    numbers = {name: f"c{number}" for number, name in enumerate(dict.fromkeys((*wanted, *keys)))}
    dealt = all_.repartition(world, *[F.col(numbers[key]) for key in keys])
    return dealt.select(*[numbers[name] for name in wanted])


def _result(frame: DataFrame, plan: BoxPlan, out: StructType, place: Placement, *, detach: bool) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    fields = [T.StructField(f"c{n}", f.dataType, f.nullable) for n, f in enumerate(out.fields)]
    numbered = T.StructType([*fields, T.StructField(PLACE, T.IntegerType(), False)])
    made = frame.mapInArrow(partial(run_box, plan), numbered, barrier=True, profile=place.profile)
    if detach:
        made = made.repartition(len(plan.places), PLACE)
    return made.select(*[F.col(f"c{n}").alias(f.name) for n, f in enumerate(out.fields)])


def _check(fn: Any, workers: int | None, deadline: float, join_timeout: float, timeout: float | None) -> None:
    if not callable(fn):
        raise ConfigurationError(f"gap.cooperate takes a DataFrame, a function and a schema; the function is {fn!r}.")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ConfigurationError(f"workers={workers!r}: a whole number above 0.")
    for option, seconds in (("deadline", deadline), ("join_timeout", join_timeout), ("timeout", timeout)):
        if seconds is not None and not seconds > 0:
            raise ConfigurationError(f"{option}={seconds!r}: seconds above 0.")


def _check_cluster(spark: SparkSession, world: int, room: int, place: Placement) -> None:
    """Refuse what Spark would refuse, too, but only after ten minutes, and in other words."""
    if _spark.conf(spark, "spark.dynamicAllocation.enabled", "false") == "true":
        raise SessionError(
            "gap.cooperate runs in a barrier stage of Spark, which dynamic allocation does not allow. Start the session with "
            "spark.dynamicAllocation.enabled=false, or use gap.train, which needs no barrier."
        )
    if room < world:
        raise SessionError(
            f"{world} workers were asked for, and {room} can run at the same time (tasks of {place.cpus} "
            f"core{'s' * (place.cpus != 1)}). Ask for workers={room}, or give Spark more cores."
        )


def _room(spark: SparkSession, place: Placement) -> int:
    """Return how many tasks run at the same time: exact where all is on one machine, whatever users call parallelism."""
    master = _spark.conf(spark, "spark.master", "")
    return slots_of(master, detect().cores) // place.cpus if master.startswith("local") else place.parallel


def _known(names: tuple[str, ...], types: dict[str, pa.DataType | None], option: str) -> tuple[str, ...]:
    for name in names:
        if name not in types:
            raise ConfigurationError(f"{option}=: the DataFrame has no column `{name}`; it has {', '.join(types)}.")
    return names


def _reaching(kind: pa.DataType | None, what: str) -> pa.DataType:
    if kind is None:
        raise SignatureError(f"{what} has a type that does not reach Python. Cast it, or leave it away.")
    return kind


def _arrow_schema(schema: StructType) -> pa.Schema:
    types = _spark.arrow_types(schema)
    return pa.schema([pa.field(f.name, _reaching(types[f.name], f"Column `{f.name}`"), f.nullable) for f in schema.fields])


def _numbered(schema: pa.Schema) -> pa.Schema:
    fields = [field.with_name(f"c{number}") for number, field in enumerate(schema)]
    return pa.schema([*fields, pa.field(PLACE, pa.int32(), False)])


def _pickled(work: Boxed, title: str) -> bytes:
    from pyspark import cloudpickle

    try:
        made: bytes = cloudpickle.dumps(work)
    except Exception as error:  # of any class: it is about the user's objects
        raise ConfigurationError(
            f"The function {title} cannot be sent to workers: pickling it raised {type(error).__name__}: {error}. "
            "Make such objects (sessions, locks, connections) inside the function."
        ) from error
    return made
