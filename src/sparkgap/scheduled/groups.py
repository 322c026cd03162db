"""`gap.run_grouped`: a function for each group of a DataFrame's rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.monitor.driver import certificate, monitor
from sparkgap.scheduled.api import size_of
from sparkgap.scheduled.bench import Program
from sparkgap.scheduled.desk import Desk
from sparkgap.scheduled.group_places import pack, places
from sparkgap.scheduled.group_run import GroupedRun, Groups
from sparkgap.scheduled.group_task import SCHEMA, Alarm, GroupPlan, OnGroup, run_groups
from sparkgap.scheduled.resources import Placement, placement
from sparkgap.scheduled.tables import FACTS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

_RESULT = {"rows", "value", *FACTS.names}


def run_grouped(
    df: DataFrame,
    keys: str | Sequence[str],
    fn: Callable[[Any, Any], Any],
    *,
    columns: Sequence[str] | None = None,
    cpus: int | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    on_error: Literal["raise", "collect"] = "raise",
    max_rows: int | None = None,
    fresh: bool = False,
    preload: Sequence[str] = (),
    result_limit: int | str = "256m",
    name: str | None = None,
) -> GroupedRun:
    """Run a function on each group of rows with equal keys: a model per customer, store or series.

    Counts the rows of each key first (one aggregation), then returns; the work goes on, the largest groups first. The
    function runs on the executors, in a process that sparkgap supervises: whatever it does to that, its group gets one
    outcome, and the others go on.

    Args:
        df: any DataFrame, classic or Connect. It is read twice, and must give the same rows both times.
        keys: column, or list of columns. As in Spark, nulls are a key of their own.
        fn: called with a key and its rows. The key is a Python value, or a tuple where `keys` is a list. The rows are a
            `pyarrow.Table` in no particular order; a pandas DataFrame where the second parameter is annotated so.
        columns: what the rows have; all columns by default.
        cpus: cores a task, which its libraries use as threads; Spark's ``spark.task.cpus`` by default.
        memory: resident memory of a group's processes above which they are killed: bytes, or ``"2g"``.
        timeout: seconds an attempt may take.
        retries: further attempts of a group that failed in any way, at once and in the same place.
        on_error: ``"raise"`` ends the run at the first group without a value; ``"collect"`` goes on.
        max_rows: a group with more rows is not run; its outcome has the kind ``"max_rows"``.
        fresh: give each group a new process. By default one process works on many groups, one after the other.
        preload: modules that are imported before such processes begin, so that each need not: ``("torch",)``.
        result_limit: bytes of a pickled value at most.
        name: of the run, for those who look on; the function's by default.

    Returns:
        The run: iterate it for outcomes, or use ``values()``, ``models()`` or ``to_df()``.

    Raises:
        ConfigurationError: an option makes no sense, a column is not there or cannot be a key, or the function cannot be
            pickled.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session()
        >>> df = spark.range(10).selectExpr("id % 2 AS k", "id")
        >>> run = gap.run_grouped(df, "k", lambda key, table: sum(table["id"].to_pylist()))
        >>> sorted(run.values().items())
        [(0, 20), (1, 25)]
    """
    named, single = ((keys,), True) if isinstance(keys, str) else (tuple(keys), False)
    _check(fn, timeout, retries, on_error, max_rows)
    wanted = _columns(df, named, columns)
    spark = df.sparkSession
    place = placement(spark, cpus=cpus, gpus=None, parallel=None)
    shipped = tuple(dict.fromkeys((*named, *wanted)))
    program = Program(
        _pickled(OnGroup(fn, shipped, len(named), wanted, single, _wants_pandas(fn))), fresh, tuple(preload), timeout,
        None if memory is None else size_of("memory", memory), place.cpus, size_of("result_limit", result_limit),
    )  # fmt: skip
    frame = _spark.columns(df, shipped)
    groups = _counted(frame, named, single, max_rows)
    return _started(spark, frame, groups, program, place, retries, stop=on_error == "raise", title=name or _title(fn))


def _started(
    spark: SparkSession, frame: DataFrame, groups: Groups, program: Program, place: Placement, retries: int, *, stop: bool,
    title: str,
) -> GroupedRun:  # fmt: skip
    details = {"groups": f"{len(groups.rows):,}", "rows": f"{sum(groups.rows):,}", "keys": ", ".join(groups.keys.column_names)}
    opened = monitor().open(spark, "grouped", title, details)
    host = _spark.driver_host(spark) if stop else None
    desk = None if host is None else Desk(_spark.bind_address(spark, host), certificate(spark))
    alarm = Alarm("", 0, "") if desk is None or host is None else Alarm(host, desk.port, desk.token, desk.certificate)
    plan = GroupPlan(
        opened.run, program, opened.address, groups.keys.num_columns, place.cpus, retries, alarm if stop else None
    )  # fmt: skip
    run = GroupedRun(opened.run, groups, spark, desk, stop=stop)
    left = len(groups.rows) > groups.refused
    run.begin(partial(_collected, spark, frame, groups, plan, place) if left else None)
    return run


def _collected(spark: SparkSession, frame: DataFrame, groups: Groups, plan: GroupPlan, place: Placement) -> list[Row]:
    """Run the job: rows are brought to the partition of their group, and sorted by its rank there.

    Not `applyInArrow`: it puts groups where the hash of their keys says, so that nothing keeps the two largest from lying
    behind each other at the end; and a Python worker must hold a group before the function can look at it.
    """
    from pyspark.sql import functions as F

    width = groups.keys.num_columns
    given = spark.createDataFrame(_assignment(groups, place.parallel), _assignment_schema(frame, width))
    same = F.col("k0").eqNullSafe(F.col("c0"))
    for number in range(1, width):
        same = same & F.col(f"k{number}").eqNullSafe(F.col(f"c{number}"))
    joined = frame.join(F.broadcast(given), same, "left").where("place IS NULL OR place >= 0")
    partitions = 1 + max(pack(groups.rows[groups.refused :], place.parallel))
    placed = joined.repartition(partitions, "place").sortWithinPartitions("rank").select("rank", *frame.columns)
    ended: list[Row] = placed.mapInArrow(partial(run_groups, plan), SCHEMA, profile=place.profile).collect()
    return ended


def _assignment(groups: Groups, slots: int) -> pa.Table:
    """Return rank and place of each key; the place is -1 where a group is not to be run."""
    packed = pack(groups.rows[groups.refused :], slots)
    known = places(1 + max(packed))
    numbers = [-1] * groups.refused + [known[partition] for partition in packed]
    names = [f"k{number}" for number in range(groups.keys.num_columns)]
    columns = [*groups.keys.columns, pa.array(range(len(numbers)), pa.int64()), pa.array(numbers, pa.int32())]
    return pa.table(columns, names=[*names, "rank", "place"])


def _assignment_schema(frame: DataFrame, keys: int) -> Any:
    from pyspark.sql.types import IntegerType, LongType, StructField, StructType

    kinds = [StructField(f"k{number}", frame.schema[f"c{number}"].dataType) for number in range(keys)]
    return StructType([*kinds, StructField("rank", LongType()), StructField("place", IntegerType())])


def _counted(frame: DataFrame, keys: tuple[str, ...], single: bool, limit: int | None) -> Groups:
    """Count the rows of each key; groups of the same size come in the order of their keys."""
    names = [f"c{number}" for number in range(len(keys))]
    table = frame.groupBy(*names).count().toArrow().rename_columns([*names, "rows"])
    table = table.sort_by([("rows", "descending"), *((name, "ascending") for name in names)])
    return Groups(table.select(names).rename_columns(list(keys)), table["rows"].to_pylist(), single, limit)


def _columns(df: DataFrame, keys: tuple[str, ...], columns: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns that the function gets, once they and the keys are looked at."""
    types = _spark.arrow_types(df.schema)
    wanted = tuple(types) if columns is None else tuple(dict.fromkeys(columns))
    if not keys or isinstance(columns, str):
        raise ConfigurationError(
            f"keys={keys!r}, columns={columns!r}: keys are one column or more, and columns a list of names."
        )
    for name in (*keys, *wanted):
        if name not in types:
            raise ConfigurationError(f"The DataFrame has no column `{name}`; it has {', '.join(types)}.")
    for name in keys:
        kind = types[name]
        if kind is None or pa.types.is_nested(kind) or pa.types.is_null(kind):
            raise ConfigurationError(
                f"Column `{name}` is of type {df.schema[name].dataType.simpleString()}, which cannot be a key. Make it a "
                "number, text, date or the like first."
            )
        if name.lower() in _RESULT:
            raise ConfigurationError(
                f"The key column `{name}` has the name of a column of the result ({', '.join(sorted(_RESULT))}). Rename it, "
                f"with df.withColumnRenamed({name!r}, ...)."
            )
    return wanted


def _check(fn: Any, timeout: float | None, retries: int, on_error: str, max_rows: int | None) -> None:
    if not callable(fn):
        raise ConfigurationError(
            f"gap.run_grouped takes a DataFrame, keys and a function; the function is a {type(fn).__name__}."
        )
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"timeout={timeout!r}: seconds above 0, or None for no limit.")
    if retries < 0:
        raise ConfigurationError(f"retries={retries!r}: not below 0.")
    if max_rows is not None and max_rows < 1:
        raise ConfigurationError(f"max_rows={max_rows!r}: at least 1, or None for no limit.")
    if on_error not in ("raise", "collect"):
        raise ConfigurationError(f"on_error={on_error!r}: 'raise' or 'collect'.")


def _wants_pandas(fn: Callable[..., Any]) -> bool:
    """Whether the second parameter is annotated as a pandas DataFrame; annotations may be text."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # of functions written in C: they have no annotations
        return False
    kind = parameters[1].annotation if len(parameters) > 1 else None
    if isinstance(kind, str):
        return kind in ("pd.DataFrame", "pandas.DataFrame")
    return getattr(kind, "__module__", "").partition(".")[0] == "pandas" and getattr(kind, "__name__", "") == "DataFrame"


def _pickled(work: OnGroup) -> bytes:
    from pyspark import cloudpickle

    try:
        made: bytes = cloudpickle.dumps(work)
    except Exception as error:  # of any class: it is about the user's objects
        raise ConfigurationError(
            f"The function {_title(work.fn)} cannot be sent to tasks: pickling it raised {type(error).__name__}: {error}. "
            "Make such objects (sessions, locks, connections) inside the function."
        ) from error
    return made


def _title(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))
