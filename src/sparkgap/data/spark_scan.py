"""Recognise a DataFrame that is nothing but a plain scan of Parquet files, so that Python can read them instead.

The rule is to refuse whatever is not known to give the same rows: every class, option, setting, type and footer must
be one of those named here. A reason in plain words comes back for everything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkgap._errors import SparkGapError
from sparkgap.data import _catalyst, filters, layouts, spark_types
from sparkgap.data._catalyst import ListedFile, Scan
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import group_units, part_of, read_footers
from sparkgap.data.parquet import Catalog, FileSource, prune
from sparkgap.data.parquet_read import Table, useful_groups
from sparkgap.data.spark_filters import NotSame, translate
from sparkgap.data.splits import FilePart, Unit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MOST_FILES = 4096
"""More footers than this are not read on the driver."""

_FORMAT = "org.apache.spark.sql.execution.datasources.parquet.ParquetFileFormat"
_INDEX = "org.apache.spark.sql.execution.datasources.InMemoryFileIndex"
_EXPRESSIONS = "org.apache.spark.sql.catalyst.expressions."
# Options that choose files, which Spark has done, or that say nothing of how they are read.
_OPTIONS = frozenset(
    ["path", "paths", "basepath", "recursivefilelookup", "pathglobfilter", "modifiedbefore", "modifiedafter",
     "__globpaths__", "serialization.format", "compression"]
)  # fmt: skip
_SETTINGS = {
    "spark.sql.parquet.mergeSchema": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.parquet.fieldId.read.enabled": "false",
    "spark.sql.parquet.binaryAsString": "false",
}
_HADOOP = ("parquet.crypto.factory.class",)
_MARKS = ("__CHAR_VARCHAR_TYPE_STRING", "__COLLATIONS")  # in the metadata of fields; their types say only "string"
_ROW_INDEX = "_tmp_metadata_row_index"


@dataclass(frozen=True)
class Fallback:
    """The DataFrame must be read by Spark.

    Args:
        reason: why, in plain words.
    """

    reason: str


def recognise(df: DataFrame) -> FileSource | Fallback:
    """Return the files that a DataFrame is, or why Spark must read it. Driver side.

    Looks at the optimized plan and at the footers of the files; starts no job.
    """
    if not _catalyst.is_classic(df):
        return Fallback("the session is a Spark Connect one, which does not show its plans")
    if df.isStreaming:
        return Fallback("the DataFrame is a stream")
    try:
        return _recognise(df)
    except NotSame as no:
        return Fallback(str(no))
    except SparkGapError as error:
        return Fallback(f"the driver's Python cannot read the files: {error}")
    except Exception as error:  # plans have no stable interface: whatever cannot be read there is left to Spark
        return Fallback(f"the plan cannot be read ({type(error).__name__}: {error})")


def _recognise(df: DataFrame) -> FileSource:
    *above, leaf = list(_catalyst.chain(df))
    found = _scan(leaf)
    _check_settings(found, df.sparkSession)
    select, where = _resolve(above, found)
    twice = sorted({name for name, _ in select if [n for n, _ in select].count(name) > 1})
    if twice:
        raise NotSame(f"two of its columns are named {twice[0]}")
    needed = sorted({column for _, column in select} | filters.columns(where))
    table = _table(found, needed)
    units_of = _Footers(found, table, needed, df.sparkSession)
    listed = _listed(found)
    pairs, rest = prune(table, [_pair(file) for file in listed], where)
    units = units_of.check(pairs, rest)
    catalog = Catalog(tuple(pairs), where=where, frame=df, units=tuple(units), strict=False)
    source = FileSource(table, tuple(select), rest, catalog)
    _check_schema(source, df)
    return source


def _scan(leaf: _catalyst.Node) -> Scan:
    if leaf.kind != _catalyst.RELATION:
        raise NotSame(f"its rows come from the step {leaf.kind.rpartition('.')[2]}, which only Spark can run")
    found = _catalyst.scan(leaf)
    if found is None:
        raise NotSame("it is not a scan of files")
    if found.format != _FORMAT:
        raise NotSame(f"the files are read by {found.format.rpartition('.')[2]}, not by Spark's own Parquet source")
    if found.index != _INDEX:
        raise NotSame(f"the files are listed by {found.index.rpartition('.')[2]}, not by a plain file index")
    if found.streaming:
        raise NotSame("the DataFrame is a stream")
    if found.catalogued:
        raise NotSame("the table's partitions are in the catalog, which Spark asks when it runs")
    if found.bucketed:
        raise NotSame("the table is bucketed")
    return found


def _check_settings(found: Scan, spark: SparkSession) -> None:
    for key, value in found.options.items():
        if key.lower() not in _OPTIONS and not (key.lower() == "mergeschema" and value.lower() == "false"):
            raise NotSame(f"it is read with the option {key}={value}")
    for key, plain in _SETTINGS.items():
        value = spark.conf.get(key, plain) or plain
        if value.lower() != plain:
            raise NotSame(f"the session has {key}={value}")
    for key in _HADOOP:
        if _catalyst.hadoop_setting(found, key):
            raise NotSame(f"the session has {key}, so files may be encrypted")


def _resolve(above: Sequence[_catalyst.Node], found: Scan) -> tuple[list[tuple[str, str]], filters.Expr | None]:
    """Follow names from the files up: return (name, column of the files) of each column, and the filter."""
    names = [f["name"] for f in _fields(found)]
    shown = found.output[: len(names)]
    if sorted(n for _, n in shown) != sorted(names):
        raise NotSame("the relation's columns are not those of its schema")
    known = dict(shown)
    kinds = {f["name"]: f["type"] for f in _fields(found)}
    order = [number for number, _ in shown]
    named = dict(shown)
    parts: list[filters.Expr] = []
    for node in reversed(above):
        if node.kind == _catalyst.FILTER:
            parts.append(translate(node.expressions[0], known, kinds))
            continue
        columns = [_column(tree, known) for tree in node.expressions]
        order = [number for number, _, _ in columns]
        named = {number: name for number, name, _ in columns}
        known = {number: column for number, _, column in columns}
    if len(found.output) > len(names) and all(node.kind == _catalyst.FILTER for node in above):
        raise NotSame("it has hidden columns")
    return [(named[number], known[number]) for number in order], filters.conjoin(parts)


def _column(tree: list[dict[str, Any]], known: dict[int, str]) -> tuple[int, str, str]:
    """Return (expression id, name, column of the files) of an attribute or a plain alias of one."""
    head, last = tree[0], tree[-1]
    kinds = [node["class"].removeprefix(_EXPRESSIONS) for node in tree]
    if kinds not in (["AttributeReference"], ["Alias", "AttributeReference"]):
        raise NotSame(f"a column is computed ({next(k for k in kinds if k != 'Alias').rpartition('.')[2]})")
    column = known.get(last["exprId"]["id"])
    if column is None:
        raise NotSame(f"it uses the hidden column {last['name']}")
    return head["exprId"]["id"], head["name"], column


def _fields(found: Scan) -> list[dict[str, Any]]:
    """Return the columns of the relation: a folder's column takes the place of the file's one of that name."""
    own = {f["name"]: f for f in found.partitions["fields"]}
    data = [own.get(f["name"], f) for f in found.data["fields"]]
    names = {f["name"] for f in data}
    return data + [f for f in found.partitions["fields"] if f["name"] not in names]


def _table(found: Scan, needed: Sequence[str]) -> Table:
    fields = {f["name"]: f for f in _fields(found)}
    lower = [name.lower() for name in fields]
    own = {f["name"] for f in found.partitions["fields"]}
    schema = []
    for name in needed:
        described = fields[name]
        kind = spark_types.to_arrow(described["type"])
        if lower.count(name.lower()) > 1:
            raise NotSame(f"two columns differ only in case: {name}")
        if name == _ROW_INDEX or any(mark in json.dumps(described) for mark in _MARKS):
            raise NotSame(f"column {name} is char, varchar, collated or Spark's own")
        if kind is None:
            raise NotSame(f"column {name} is {spark_types.describe(described['type'])}, which only Spark reads as Spark does")
        if name in own and (pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind)):
            raise NotSame(f"the partition column {name} is {spark_types.describe(described['type'])}")
        schema.append(pa.field(name, kind))
    return Table(pa.schema(schema), tuple(f["name"] for f in found.partitions["fields"]))


def _listed(found: Scan) -> list[ListedFile]:
    count = _catalyst.count_files(found)
    if count > MOST_FILES:
        raise NotSame(f"there are {count} files; the driver looks at no more than {MOST_FILES}")
    return _catalyst.listed_files(found)


def _pair(file: ListedFile) -> tuple[FileEntry, FilePart]:
    scheme, _, rest = file.path.partition(":")
    if scheme != "file":
        raise NotSame(
            f"the files are at {scheme}://, where the executors' Python may see other files or none than Spark; "
            "gap.files(…, storage_options=…) reads them by itself"
        )
    path = "/" + rest.lstrip("/")
    try:
        status = os.stat(path)
    except OSError as error:
        raise NotSame(f"the driver's Python cannot see {path} ({error.strerror})") from error
    if (status.st_size, status.st_mtime_ns // 10**6) != (file.size, file.mtime_ms):
        raise NotSame(f"{path} changed after Spark listed it")
    entry = FileEntry("", path, status.st_size, status.st_mtime_ns)
    return entry, part_of(entry, file.values)


@dataclass(frozen=True)
class _Footers:
    """Looks at the footer of each file: does it hold what Spark's schema says, in a form that both read alike?"""

    found: Scan
    table: Table
    needed: Sequence[str]
    spark: SparkSession

    def check(self, pairs: Sequence[tuple[FileEntry, FilePart]], where: filters.Expr | None) -> list[Unit]:
        units: list[Unit] = []
        kinds = {f["name"]: f["type"] for f in _fields(self.found)}
        stored = {n: kinds[n] for n in self.needed if n not in self.table.partitions}
        floats = [n for n in filters.columns(where, compared=True) if pa.types.is_floating(self.table.schema.field(n).type)]
        dates = any(spark_types.has_date(kind) for kind in stored.values())
        for entry, part, meta in read_footers(self.table, pairs):
            self._check_columns(entry.path, meta, stored)
            if floats and not str(meta.created_by).startswith("parquet-mr"):
                # Their statistics say nothing of NaN, and Spark skips row groups by them.
                raise NotSame(f"it filters {floats[0]}, a float column, and {entry.path} was not written by Spark")
            if dates:
                self._check_dates(entry.path, meta.metadata or {})
            units.extend(group_units(part, meta, self.needed, useful_groups(meta, where, self.table.partitions)))
        return units

    def _check_columns(self, path: str, meta: pq.FileMetaData, stored: dict[str, Any]) -> None:
        schema = meta.schema.to_arrow_schema()
        lower = [name.lower() for name in schema.names]
        leaves = layouts.leaves(schema, [meta.schema.column(j).path for j in range(len(meta.schema))])
        for name, kind in stored.items():
            if lower.count(name.lower()) > 1:
                raise NotSame(f"{path} has columns that differ only in case: {name}")
            i = schema.get_field_index(name)
            if i < 0:
                raise NotSame(f"{path} has no column {name}")
            have = schema.field(i).type
            if not layouts.same_values(have, self.table.schema.field(name).type):
                raise NotSame(f"column {name} is {have} in {path}, and {spark_types.describe(kind)} for Spark")
            if not spark_types.same_leaves(leaves[i], spark_types.leaf_paths(name, kind)):
                raise NotSame(f"column {name} has another layout in {path}: {', '.join(leaves[i])}")

    def _check_dates(self, path: str, keys: dict[bytes, bytes]) -> None:
        """Dates before 1582 may be written in the old calendar; Spark tells that from these keys."""
        version = keys.get(b"org.apache.spark.version")
        if version is None:
            mode = self.spark.conf.get("spark.sql.parquet.datetimeRebaseModeInRead") or ""
            if mode.upper() != "CORRECTED":
                raise NotSame(f"{path} has dates and was not written by Spark, which may rebase them ({mode})")
        elif int(version.split(b".")[0]) < 3 or b"org.apache.spark.legacyDateTime" in keys:
            raise NotSame(f"{path} has dates in the old calendar")


def _check_schema(source: FileSource, df: DataFrame) -> None:
    """The last word: names and types must be those of the DataFrame."""
    wanted = [(f.name, spark_types.to_arrow(f.dataType.jsonValue())) for f in df.schema.fields]
    if [(f.name, f.type) for f in source.schema] != wanted:
        raise NotSame(f"its schema is {wanted}, that of the files is {list(source.schema)}")
