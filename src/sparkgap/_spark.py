"""The file that asks Spark things: which session, classic or Connect, slots, types, artifacts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap._errors import SessionError, SignatureError
from sparkgap._machine import detect
from sparkgap._settings import slots_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType, StructType

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def active_session() -> SparkSession:
    """Return the active session, else the one of this process, classic or Connect.

    Raises:
        SessionError: there is none.
    """
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    try:
        return SparkSession.active()  # unlike getActiveSession, also in threads that did not start it
    except PySparkRuntimeError as error:
        raise SessionError(
            "There is no active Spark session. Start one with gap.session(), or with SparkSession.builder."
        ) from error


def is_connect(spark: SparkSession) -> bool:
    """Whether the session is a Spark Connect client."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def conf(spark: SparkSession, key: str, default: str) -> str:
    """Return a setting of the session, or the default where it is unset or hidden."""
    value = spark.conf.get(key, default)
    return default if value is None else str(value)


def slots(spark: SparkSession) -> int:
    """Return how many tasks run at the same time, as far as the session tells.

    A local master says it. Else it is the default parallelism, which Spark makes of the cores of its executors; where users
    have set that to something else, the most tasks that the executors ran at once whenever this was asked. Connect has no
    call for either: there it is the number of partitions that `spark.range` gets by default.
    """
    master = conf(spark, "spark.master", "")
    if master.startswith("local"):
        return max(1, slots_of(master, detect().cores) // int(conf(spark, "spark.task.cpus", "1")))
    if is_connect(spark):
        return max(1, _connect_parallelism(spark))
    if not conf(spark, "spark.default.parallelism", ""):
        return max(1, int(spark.sparkContext.defaultParallelism))
    jvm = spark.sparkContext._jsc.sc()
    now = int(jvm.maxNumConcurrentTasks(jvm.resourceProfileManager().defaultResourceProfile()))
    _most_slots[spark] = max(1, now, _most_slots.get(spark, 1))  # an executor may be on its way back
    return _most_slots[spark]


def known_slots(spark: SparkSession) -> int | None:
    """Return how many tasks can run at the same time, where that is certain and takes no job of Spark; else None.

    Not the default parallelism, which users set as they like.
    """
    if is_connect(spark):
        return None
    master = str(spark.sparkContext.master)
    if not master.startswith("local"):
        return None
    return max(1, slots_of(master, detect().cores) // int(conf(spark, "spark.task.cpus", "1")))


_most_slots: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_parallelism: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _connect_parallelism(spark: SparkSession) -> int:
    if spark not in _parallelism:
        from pyspark.sql import functions as F

        row = spark.range(0, 4096).select(F.spark_partition_id().alias("p")).agg(F.max("p")).first()
        _parallelism[spark] = 1 + int(row[0] if row is not None else 0)
    return _parallelism[spark]


def most_result_bytes(spark: SparkSession) -> int:
    """Return how many bytes the result of a job may have, by ``spark.driver.maxResultSize``; where it says no limit, 1 TiB."""
    text = conf(spark, "spark.driver.maxResultSize", "1g").strip().lower().removesuffix("b")
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    size = int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
    return size or 1 << 40


def driver_host(spark: SparkSession) -> str | None:
    """Return the address at which executors reach this process; None where they cannot be expected to."""
    if is_connect(spark):
        host = str(getattr(spark.client, "host", ""))
        return "127.0.0.1" if host.partition(":")[0] in _LOOPBACK or host.startswith("[::1]") else None
    master = str(spark.sparkContext.master)
    if master.startswith("local"):
        return "127.0.0.1"
    return str(spark.sparkContext.getConf().get("spark.driver.host") or "127.0.0.1")


def bind_address(spark: SparkSession, host: str) -> str:
    """Return the address that a server of this process should bind to, for executors that call it `host`."""
    if is_connect(spark) or str(spark.sparkContext.master).startswith("local"):
        return host
    return str(spark.sparkContext.getConf().get("spark.driver.bindAddress") or host)


def shares_files_with_executors(spark: SparkSession) -> bool:
    """Whether executors certainly run on this machine and so see this process's files."""
    if is_connect(spark):
        return driver_host(spark) is not None
    return str(spark.sparkContext.master).startswith("local")


_sent: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def send_file(spark: SparkSession, path: Path) -> str:
    """Register a file with Spark, once a session; each executor fetches it once. Returns its name there."""
    names = _sent.setdefault(spark, set())
    if path.name not in names:
        spark.addArtifacts(str(path), file=True)
        names.add(path.name)
    return path.name


def columns(frame: DataFrame, names: tuple[str, ...]) -> DataFrame:
    """Select columns by their exact names, whatever characters are in them, and number them: `c0`, `c1` ….

    `mapInArrow` looks its columns up by name, and cannot find names with dots or backticks.
    """
    from pyspark.sql import functions as F

    quoted = ["`" + name.replace("`", "``") + "`" for name in names]
    return frame.select(*[F.col(name).alias(f"c{number}") for number, name in enumerate(quoted)])


def arrow_type(kind: DataType) -> pa.DataType | None:
    """Return the Arrow type in which a column of this Spark type reaches Python; None where it has none."""
    from pyspark.sql import types as T

    simple: dict[type, pa.DataType] = {
        T.BooleanType: pa.bool_(), T.ByteType: pa.int8(), T.ShortType: pa.int16(), T.IntegerType: pa.int32(),
        T.LongType: pa.int64(), T.FloatType: pa.float32(), T.DoubleType: pa.float64(), T.StringType: pa.string(),
        T.BinaryType: pa.binary(), T.DateType: pa.date32(), T.TimestampType: pa.timestamp("us", "UTC"),
        T.TimestampNTZType: pa.timestamp("us"), T.DayTimeIntervalType: pa.duration("us"), T.NullType: pa.null(),
    }  # fmt: skip
    if isinstance(kind, T.UserDefinedType):
        return arrow_type(kind.sqlType())
    if isinstance(kind, T.CharType | T.VarcharType):
        return pa.string()
    if isinstance(kind, T.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, T.ArrayType):
        item = arrow_type(kind.elementType)
        return None if item is None else pa.list_(item)
    if isinstance(kind, T.MapType):
        key, value = arrow_type(kind.keyType), arrow_type(kind.valueType)
        return None if key is None or value is None else pa.map_(key, value)
    if isinstance(kind, T.StructType):
        fields = [(f.name, arrow_type(f.dataType)) for f in kind.fields]
        return None if any(t is None for _, t in fields) else pa.struct([(n, t) for n, t in fields])
    return simple.get(type(kind))


def arrow_types(schema: StructType) -> dict[str, pa.DataType | None]:
    """Return the Arrow type of every column of a schema.

    Raises:
        SignatureError: two columns have the same name, so neither can be named.
    """
    names = [f.name for f in schema.fields]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SignatureError(
            f"The DataFrame has more than one column named {', '.join(twice)}. Rename or drop one with "
            "df.toDF(...) or df.drop(...)."
        )
    return {f.name: arrow_type(f.dataType) for f in schema.fields}


def spark_type(kind: pa.DataType) -> DataType:
    """Return the Spark type of a column that Python gives back in this Arrow type."""
    from pyspark.sql import types as T

    for test, make in (
        (pa.types.is_boolean, T.BooleanType), (pa.types.is_int8, T.ByteType), (pa.types.is_int16, T.ShortType),
        (pa.types.is_int32, T.IntegerType), (pa.types.is_int64, T.LongType), (pa.types.is_float32, T.FloatType),
        (pa.types.is_float64, T.DoubleType), (pa.types.is_string, T.StringType),
        (pa.types.is_large_string, T.StringType), (pa.types.is_binary, T.BinaryType),
        (pa.types.is_large_binary, T.BinaryType), (pa.types.is_date32, T.DateType),
    ):  # fmt: skip
        if test(kind):
            return make()
    if pa.types.is_timestamp(kind):
        return T.TimestampType() if kind.tz else T.TimestampNTZType()
    if pa.types.is_decimal(kind):
        return T.DecimalType(kind.precision, kind.scale)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return T.ArrayType(spark_type(kind.value_type))
    if pa.types.is_struct(kind):
        return T.StructType([T.StructField(f.name, spark_type(f.type), f.nullable) for f in kind])
    if pa.types.is_map(kind):
        return T.MapType(spark_type(kind.key_type), spark_type(kind.item_type))
    raise SignatureError(f"A column of Arrow type {kind} has no Spark type. Cast it to a plain type first.")


def column_function(body: Callable[[Iterator[Any]], Iterator[pa.Array]], returns: DataType) -> Any:
    """Return a body over Arrow columns as a Spark user-defined function.

    An `arrow_udf` where this PySpark has it (4.1 and later), else a pandas one that converts on both sides.
    """
    from pyspark.sql import functions as F

    if hasattr(F, "arrow_udf"):
        body.__annotations__ = {"columns": Iterator[tuple[pa.Array, ...]], "return": Iterator[pa.Array]}
        return F.arrow_udf(body, returns)
    from sparkgap.embedded.pandas_function import over_pandas

    return over_pandas(body, returns)


def tag_jobs(spark: SparkSession, tag: str) -> None:
    """Tag the jobs that this thread runs from now on, for `cancel_jobs`.

    The tags of a classic session are known to the thread only that has set them; those of its context to all.
    """
    if is_connect(spark):
        spark.addTag(tag)
    else:
        spark.sparkContext.addJobTag(tag)


def cancel_jobs(spark: SparkSession, tag: str) -> None:
    """End the jobs with a tag; any thread."""
    if is_connect(spark):
        spark.interruptTag(tag)
    else:
        spark.sparkContext.cancelJobsWithTag(tag)
