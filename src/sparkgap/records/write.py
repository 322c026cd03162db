"""`gap.write_records`: a DataFrame as training data for other tools."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap._task_errors import own_errors
from sparkgap.data import storage
from sparkgap.records import registry
from sparkgap.records.format import RecordFormat
from sparkgap.records.output import Folder, Made, TaskOutput

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_RESULT = pa.schema(
    [("name", pa.string()), ("temporary", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("entry", pa.string())]
)
_RESULT_DDL = "name string, temporary string, rows bigint, bytes bigint, entry string"


@dataclass(frozen=True)
class WrittenRecords:
    """What `gap.write_records` wrote.

    Args:
        path: the folder.
        format: of the files.
        files: their names, in order.
        rows: in all of them.
        bytes: of all of them.
    """

    path: str
    format: str
    files: tuple[str, ...]
    rows: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.rows} rows in {len(self.files)} {self.format} files ({self.bytes} bytes) at {self.path}"


def write_records(
    df: DataFrame,
    path: str | Path,
    format: str,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> WrittenRecords:
    """Write a DataFrame as TFRecord, WebDataset, LMDB or MDS; no jar, no package of the format's maker.

    One Spark job, in which every partition with rows writes its own file (of MDS: files); `df.repartition(n)` gives other
    numbers of them. They appear in the folder when all tasks have ended well, each row once, whatever was tried again.

    Args:
        df: classic or Connect. Spark ML vectors become lists of numbers.
        path: folder, local or a URI that pyarrow or fsspec can write to; the driver and all executors must see it.
        format: ``"tfrecord"``, ``"webdataset"``, ``"lmdb"``, ``"mds"``.
        columns: which to write; default all. WebDataset: names are endings (``cls``, ``txt``, ``jpg``, ``x.npy``), and
            `__key__` is the key, else keys are numbers. LMDB: `key` and `value`.
        overwrite: whether files of an earlier `write_records` there are replaced.
        storage_options: of the fsspec file system of `path`.
        **options: of the format. TFRecord: `compression` (None, ``"gzip"``, ``"zlib"``), `payload` (``"example"``, or
            ``"bytes"``: one column of bytes, each a record). WebDataset: `compression` (None, ``"gzip"``). MDS:
            `compression` (None, ``"zstd"``), `shard_bytes` (64 MiB). LMDB: `database`.

    Returns:
        What was written.

    Raises:
        ConfigurationError: an option is wrong, or there are files already.
        SignatureError: a column has a type that the format cannot hold.
        RowError: a row cannot be written; says which one.
        DataError: the folder cannot be written.
        MissingDependencyError: the package `lmdb` is not installed.

    Example:
        >>> import sparkgap as gap, tempfile
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(4).selectExpr("id AS cls", "concat('row ', id) AS txt")
        >>> gap.write_records(df.coalesce(1), tempfile.mkdtemp() + "/tars", "webdataset").files
        ('part-00000.tar',)
    """
    if format == registry.IMAGES:
        raise ConfigurationError(f"{format} can be read only. Write webdataset, or another format.")
    form = registry.make(format, options)
    given = _plain(df)
    schema = _schema(given, columns)
    form.check(schema)
    folder = Folder(*storage.locate(path), options=tuple((storage_options or {}).items()))
    folder.prepare(overwrite=overwrite)
    try:
        made = _run(_spark.columns(given, tuple(schema.names)), form, schema, folder)
    except BaseException:
        folder.clean()
        raise
    folder.commit(made, form.index([(m.name, json.loads(m.entry)) for m in made]))
    files = tuple(m.name for m in made)
    return WrittenRecords(folder.origin, format, files, sum(m.rows for m in made), sum(m.bytes for m in made))


def write_partition(
    form: RecordFormat, schema: pa.Schema, folder: Folder, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write one partition, and tell what was written. Runs in a Spark task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    partition = 0 if context is None else context.partitionId()
    output = TaskOutput(folder, partition)
    writer = None
    for batch in batches:
        if batch.num_rows:
            writer = writer or form.writer(schema, output, partition)
            writer.add(batch)
    if writer is not None:
        writer.close()
    yield pa.RecordBatch.from_pylist([vars(made) for made in output.made], schema=_RESULT)


def _run(df: DataFrame, form: RecordFormat, schema: pa.Schema, folder: Folder) -> list[Made]:
    with own_errors():
        rows = df.mapInArrow(functools.partial(write_partition, form, schema, folder), _RESULT_DDL).collect()
    return sorted((Made(**row.asDict()) for row in rows), key=lambda made: made.name)


def _plain(df: DataFrame) -> DataFrame:
    """Make lists of Spark ML's vectors."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    names = [f.name for f in df.schema.fields if type(f.dataType).__name__ == "VectorUDT"]
    if not names:
        return df
    quoted = {f.name: F.col("`" + f.name.replace("`", "``") + "`") for f in df.schema.fields}
    return df.select(*[vector_to_array(c).alias(n) if n in names else c for n, c in quoted.items()])


def _schema(df: DataFrame, columns: Sequence[str] | None) -> pa.Schema:
    kinds = _spark.arrow_types(df.schema)
    names = list(kinds) if columns is None else list(columns)
    absent = [name for name in names if name not in kinds]
    if absent or not names or isinstance(columns, str) or len(set(names)) < len(names):
        raise ConfigurationError(f"columns is {columns!r}; take one or more different ones of: {', '.join(kinds)}.")
    without = [name for name in names if kinds[name] is None]
    if without:
        raise SignatureError(f"Column `{without[0]}` has a type that no file can hold. Cast it, or leave it out of columns=.")
    return pa.schema([(name, kinds[name]) for name in names])
