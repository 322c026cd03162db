"""`gap.read_records`: training data of other tools as a DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap.data import discovery
from sparkgap.data.source import Source
from sparkgap.data.splits import Unit
from sparkgap.records import registry
from sparkgap.records.format import RecordFile, RecordFormat
from sparkgap.records.image_folders import image_folders
from sparkgap.records.record_source import Decode, RecordSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

_SAMPLE = 1000
_FILES = 3


def read_records(
    path: discovery.Paths,
    format: str = "auto",
    *,
    schema: StructType | pa.Schema | str | None = None,
    columns: Sequence[str] | None = None,
    decode: Decode | None = None,
    on_error: str = "raise",
    storage_options: Mapping[str, Any] | None = None,
    spark: SparkSession | None = None,
    **options: Any,
) -> DataFrame:
    """Read TFRecord, WebDataset, LMDB, MDS or a folder of images as a DataFrame; no jar, no package of the format's maker.

    The files are listed now, and the first records of up to three of them are read where no schema is given. Each action
    then reads them on the executors: a file is the work of one task, of MDS a part of a file.

    Args:
        path: local path or any URI of pyarrow or fsspec, or several; each a file, a folder or a glob. The driver and all
            executors must see it.
        format: ``"tfrecord"``, ``"webdataset"``, ``"lmdb"``, ``"mds"``, ``"image_folder"``; ``"auto"`` looks at names and
            first bytes.
        schema: the columns and their types, as Spark's, as Arrow's, or as text (``"id bigint, x array<float>"``). Without
            one, it is inferred; a record with a column that none of the first ones has is then a bad record.
        columns: which columns to read, in this order; default all.
        decode: called for each record, with a dict of its columns as the format gives them; returns a dict of those of
            `schema`, which it needs.
        on_error: for records that cannot be read: ``"raise"``; ``"skip"`` leaves them out, and also the rest of a file after
            damage. How many, the log of the executor tells (logger `sparkgap.records.format`).
        storage_options: arguments of the fsspec file system; without any, pyarrow's own is used where it has one.
        spark: the session; default the active one.
        **options: of the format. TFRecord: `payload` (``"example"``, or ``"bytes"``: one column `record`), `verify`
            (checksums of records, True). LMDB: `database`. Folders of images: `extensions`.

    Returns:
        A lazy DataFrame.

    Raises:
        ConfigurationError: an option is wrong.
        SignatureError: the schema has a type that the format cannot give.
        DataError: there are no such files, or their columns cannot be told.
        MissingDependencyError: the package `lmdb` is not installed.

    Example:
        >>> import sparkgap as gap, tempfile
        >>> spark = gap.session("local[2]")
        >>> path = tempfile.mkdtemp() + "/numbers"
        >>> _ = gap.write_records(spark.range(3).selectExpr("id", "array(float(id), 0.5f) AS x"), path, "tfrecord")
        >>> gap.read_records(path).orderBy("id").first()
        Row(id=0, x=[0.0, 0.5])
    """
    session = spark or _spark.active_session()
    if on_error not in ("raise", "skip"):
        raise ConfigurationError(f"on_error is {on_error!r}; it must be one of raise, skip.")
    if decode is not None and schema is None:
        raise ConfigurationError("decode= makes columns that only you know. Give them: schema=.")
    source = open_source(path, format, arrow_schema(schema), columns, decode, on_error == "skip", storage_options, options)
    return source.to_df(session)


def open_source(  # noqa: PLR0917
    path: discovery.Paths,
    format: str,
    schema: pa.Schema | None,
    columns: Sequence[str] | None,
    decode: Decode | None,
    skip: bool,
    storage_options: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Source:
    """List the files, tell their format and their columns. Starts no job."""
    system = dict(storage_options or {})
    if format == registry.IMAGES:
        return _images(path, schema, columns, decode, system, options)
    if format != "auto":
        registry.make(format, options)  # a wrong option is told before files are looked at
    entries = discovery.discover(path, system).entries
    format = registry.detect(entries, system) if format == "auto" else format
    if format == registry.IMAGES:
        return _images(path, schema, columns, decode, system, options)
    form = registry.make(format, options)
    units = form.select(entries, system)
    if not units:
        raise DataError(f"There is no file of format {format} at {path}. Names that start with _ or . are left out. Check it.")
    files = tuple(sorted(system.items()))
    if schema is not None and decode is None:
        form.check(schema)
        given = _chosen(schema, columns)
        return RecordSource(form, given, given, None, None, skip, files, tuple(units))
    stored = _inferred(form, units, files)
    given = _chosen(stored if decode is None or schema is None else schema, columns)
    known = frozenset(stored.names) if columns is None else None
    return RecordSource(form, given if decode is None else stored, given, known, decode, skip, files, tuple(units))


def arrow_schema(schema: StructType | pa.Schema | str | None) -> pa.Schema | None:
    """Return a schema that was given in any of its forms, as Arrow's.

    Raises:
        SignatureError: a column has a type that Arrow has not.
    """
    from pyspark.sql import types as T

    if schema is None or isinstance(schema, pa.Schema):
        return schema
    given = T.StructType.fromDDL(schema) if isinstance(schema, str) else schema
    if not isinstance(given, T.StructType):
        raise ConfigurationError(
            f"schema is {given!r}; give a StructType, an Arrow schema, or text such as 'id bigint, x string'."
        )
    kinds = _spark.arrow_types(given)
    without = [name for name, kind in kinds.items() if kind is None]
    if without:
        raise SignatureError(f"Column `{without[0]}` of the schema has a type that Arrow has not. Use another one.")
    return pa.schema(list(kinds.items()))


def _inferred(form: RecordFormat, units: Sequence[Unit], options: tuple[tuple[str, Any], ...]) -> pa.Schema:
    """Tell the columns by the first records of the first file, the one in the middle and the last one."""
    chosen = sorted({0, len(units) // 2, len(units) - 1})[:_FILES]
    found: dict[str, pa.DataType] = {}
    for unit in (units[i] for i in chosen):
        file = RecordFile(unit.part, options)
        for field in form.infer(file, _SAMPLE // len(chosen)):
            before = found.get(field.name, field.type)
            joined = before if before == field.type else _joined(before, field.type)
            if joined is None:
                raise DataError(
                    f"Column `{field.name}` is {before} in some files, and {field.type} in {file.origin}. Give schema=."
                )
            found[field.name] = joined
    return pa.schema(list(found.items()))


def _joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type for one value in some files and lists of them in others."""
    for a, b in ((one, other), (other, one)):
        if pa.types.is_list(a) and a.value_type == b:
            return a
    return None


def _chosen(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    unknown = [c for c in columns if schema.get_field_index(c) < 0]
    if isinstance(columns, str) or not columns or unknown or len(set(columns)) < len(columns):
        raise ConfigurationError(f"columns is {columns!r}; take different ones of: {', '.join(schema.names)}.")
    return pa.schema([schema.field(c) for c in columns])


def _images(
    path: discovery.Paths,
    schema: pa.Schema | None,
    columns: Sequence[str] | None,
    decode: Decode | None,
    system: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Source:
    if schema is not None or decode is not None:
        raise ConfigurationError("Folders of images have columns of their own: leave schema= and decode= out. See gap.image.")
    unknown = [o for o in options if o != "extensions"]
    if unknown:
        raise ConfigurationError(f"{registry.IMAGES} has no option {unknown[0]!r}; it has: extensions.")
    return image_folders(path, columns, system, **options)
