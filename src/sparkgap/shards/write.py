"""`gap.write_shards`: a table into shards, in one job of Spark."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

import sparkgap
from sparkgap import _spark
from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap._task_errors import own_errors
from sparkgap.data.source import Source
from sparkgap.data.spark_scan import Fallback
from sparkgap.data.storage import Options
from sparkgap.monitor.driver import monitor
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import telling
from sparkgap.monitor.wire import Address
from sparkgap.shards.conform import Field, Nulls, Shape
from sparkgap.shards.dataset import Shards
from sparkgap.shards.fingerprint import fingerprint
from sparkgap.shards.folder import Folder
from sparkgap.shards.format import INDEX, Index, Shard
from sparkgap.shards.shard_writer import ShardWriter, WritePlan, Written
from sparkgap.shards.sizes import size_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_RESULT = pa.schema([("partition", pa.int32()), ("number", pa.int32()), ("skipped", pa.int64()), ("entry", pa.string())])
_RESULT_DDL = "partition int, number int, skipped bigint, entry string"


def write_shards(
    data: DataFrame | Source,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    shard_bytes: int | str = "64m",
    rows_per_shard: int | None = None,
    nulls: Nulls = "error",
    overwrite: bool | str = "error",
    key: str | None = None,
    storage_options: Options | None = None,
) -> Shards:
    """Write a table as shards: Arrow files that training reads, many times, at the speed of memory.

    One Spark job, in which every partition writes its own files; the index that makes them data comes last, so a write that
    was cut off leaves nothing that could be read. Files of earlier writes that were cut off are removed. A folder belongs to
    one writer at a time: of two at once the one that began first fails.

    Args:
        data: a DataFrame (classic or Connect), or `gap.files(...)`.
        path: folder, local or a URI that pyarrow or fsspec can write to; the driver and all executors must see it.
        columns: which to write, in this order; default all. Lists of numbers become tensors where all rows have one shape,
            and stay lists of any length where not; Spark ML vectors become tensors of doubles.
        shard_bytes: a file ends at about so many bytes (``"64m"``), or at the end of its partition.
        rows_per_shard: a file ends at so many rows, too.
        nulls: in columns of numbers: ``"error"``; ``"nan"``: NaN in columns of floats, an error in others; ``"skip"``: rows
            with nulls are left out, and counted in `Shards.skipped`. Nulls in other columns stay.
        overwrite: for shards that are there: ``"error"``; True: they are replaced; ``"reuse"``: they are returned, without a
            job, where they were written from the same content with the same options, else replaced. That is known by
            `key`, or for plain scans of Parquet files by the paths, sizes and times of the files, columns and filter.
        key: your name for the content, for ``"reuse"``: a new one means new content.
        storage_options: of the fsspec file system of `path`.

    Returns:
        The shards, opened.

    Raises:
        ConfigurationError: an option is wrong, there are shards already, or ``"reuse"`` cannot know the content.
        SignatureError: a column has a type that shards cannot hold.
        DataError: a row has a null where none may be, or files cannot be written or are not seen by the driver.

    Example:
        >>> import sparkgap as gap, tempfile
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(4).selectExpr("id", "array(float(id), 0.5f) AS x")
        >>> shards = gap.write_shards(df, tempfile.mkdtemp() + "/train")
        >>> shards.rows, shards.read([3])["x"].tolist()
        (4, [[3.0, 0.5]])
    """
    _check(overwrite, nulls, rows_per_shard)
    size = size_of("shard_bytes", shard_bytes)
    folder = Folder.of(path, storage_options)
    source = fingerprint(data, key, (columns, size, rows_per_shard, nulls)) if overwrite == "reuse" or key else None
    if isinstance(source, Fallback):
        raise ConfigurationError(
            f'overwrite="reuse" cannot know whether the table is the one that was written: {source.reason}. Name its content '
            'with key="...", which you change when the content changes, or use overwrite=True.'
        )
    there = _there(folder, overwrite)
    if overwrite == "reuse" and there is not None and there.source == source and not _missing(folder, there):
        return Shards(folder, there)
    df = data.to_df(_spark.active_session()) if isinstance(data, Source) else data
    fields = _fields(df, columns)
    folder.clean(there)
    plan = WritePlan(folder, f"data-{uuid.uuid4().hex}", fields, size, rows_per_shard, nulls)
    folder.create(plan.data)
    written, skipped = _run(df, plan)
    index = make_index(fields, written, skipped, source)
    _commit(folder, index)
    return Shards(folder, index)


def write_partition(
    plan: WritePlan, batches: Iterator[pa.RecordBatch], *, run: str = "", channel: Address | None = None
) -> Iterator[pa.RecordBatch]:
    """Write one partition, and tell what was written. Runs in a Spark task.

    Args:
        plan: what to write.
        batches: the rows.
        run: id of the run, for the monitor.
        channel: where its events go; None for nowhere.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    stats = TaskStats() if context is None else TaskStats(context.stageId(), context.partitionId(), context.taskAttemptId())
    partition = stats.partition
    writer = ShardWriter(plan, partition)
    with telling(channel, run, stats):
        try:
            written = _write_all(writer, batches, stats)
        except BaseException:
            writer.abandon()
            raise
    rows = [(partition, n, json.dumps([vars(w.shard), w.shapes])) for n, w in enumerate(written)]
    if writer.skipped and not rows:
        rows = [(partition, -1, "")]
    skipped = [writer.skipped if n == 0 else 0 for n in range(len(rows))]
    columns = [[r[0] for r in rows], [r[1] for r in rows], skipped, [r[2] for r in rows]]
    yield pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _RESULT, strict=True)], schema=_RESULT)


def _write_all(writer: ShardWriter, batches: Iterator[pa.RecordBatch], stats: TaskStats) -> list[Written]:
    while True:
        with stats.timed("read"):
            batch = next(batches, None)
        if batch is None:
            break
        stats.rows_in += batch.num_rows
        stats.bytes_in += batch.nbytes
        with stats.timed("write"):
            writer.add(batch)
        stats.skipped = writer.skipped
        stats.rows_out = stats.rows_in - stats.skipped
    with stats.timed("write"):
        return writer.finish()


def make_index(fields: Sequence[Field], written: Sequence[Written], skipped: int, source: str | None) -> Index:
    """Make the index of shards, given in order. A column whose rows differ in shape between shards is one of lists."""
    shapes: list[Shape] = []
    for number, field in enumerate(fields):
        found = {w.shapes[number] for w in written}
        one = found.pop() if len(found) == 1 else None
        shapes.append(one if field.listed else ())
    schema = pa.schema([(f.name, f.stored(s)) for f, s in zip(fields, shapes, strict=True)])
    specs = tuple(f.spec(s) for f, s in zip(fields, shapes, strict=True))
    return Index(schema, specs, tuple(w.shard for w in written), skipped, source, f"sparkgap {sparkgap.__version__}")


def _check(overwrite: object, nulls: object, rows_per_shard: int | None) -> None:
    if overwrite not in ("error", "reuse", True, False):
        raise ConfigurationError(f'overwrite is {overwrite!r}: "error", "reuse" or True.')
    if nulls not in ("error", "nan", "skip"):
        raise ConfigurationError(f'nulls is {nulls!r}: "error", "nan" or "skip".')
    if rows_per_shard is not None and rows_per_shard < 1:
        raise ConfigurationError(f"rows_per_shard is {rows_per_shard}: a number of rows from 1 on, or None.")


def _there(folder: Folder, overwrite: bool | str) -> Index | None:
    """Return the index of the shards that are there and may be replaced."""
    try:
        found = folder.read_index()
    except DataError:
        if overwrite in ("error", False):
            raise
        return None  # damaged, and to be replaced
    if found is not None and overwrite in ("error", False):
        raise ConfigurationError(
            f"There are shards of {found.rows} rows at {folder.origin}. Open them with gap.open_shards, or write with "
            'overwrite=True (replaces them) or overwrite="reuse" (returns them if they have the same content).'
        )
    return found


def _fields(df: DataFrame, columns: Sequence[str] | None) -> tuple[Field, ...]:
    types = _spark.arrow_types(df.schema)
    names = list(types) if columns is None else list(columns)
    absent = [name for name in names if name not in types]
    if absent or not names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"columns is {names!r}; take one or more different ones of those that there are: {', '.join(types)}."
        )
    return tuple(Field(name, _known(name, types[name])) for name in names)


def _known(name: str, kind: pa.DataType | None) -> pa.DataType:
    if kind is None:
        raise SignatureError(f"Column `{name}` has a type that shards cannot hold. Cast it, or leave it out of columns=.")
    return kind


def _run(df: DataFrame, plan: WritePlan) -> tuple[list[Written], int]:
    given = _spark.columns(df, tuple(field.name for field in plan.fields))
    opened = monitor().open(
        df.sparkSession, "shards", f"shards of {Path(str(plan.folder.origin)).name}", {"columns": str(len(plan.fields))}
    )
    write = functools.partial(write_partition, plan, run=opened.run, channel=opened.address)
    with own_errors():
        rows = given.mapInArrow(write, _RESULT_DDL).collect()
    rows.sort(key=lambda row: (row.partition, row.number))
    return [_written(row.entry) for row in rows if row.entry], sum(row.skipped for row in rows)


def _written(entry: str) -> Written:
    shard, shapes = json.loads(entry)
    return Written(Shard(**shard), tuple(None if s is None else tuple(s) for s in shapes))


def _missing(folder: Folder, index: Index) -> list[str]:
    """Return the shards of an index that are not there in their size."""
    seen: dict[str, int] = {}
    for below in {shard.file.partition("/")[0] for shard in index.shards}:
        seen.update(folder.sizes(below))
    return [shard.file for shard in index.shards if seen.get(shard.file) != shard.bytes]


def _commit(folder: Folder, index: Index) -> None:
    if missing := _missing(folder, index):
        raise DataError(
            f"{len(missing)} shards that tasks wrote are not at {folder.origin} for the driver, e.g. {missing[0]}. Either the "
            "path is on the executors' own disks (use one that driver and executors share), or another write to the same "
            f"path removed them (write one at a time). {INDEX} was not written."
        )
    folder.write_index(index)
    folder.clean(index)
