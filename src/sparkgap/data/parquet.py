"""`gap.files`: Parquet files that executors' Python reads by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import discovery, filters, layouts, partitions, storage
from sparkgap.data.discovery import FileEntry
from sparkgap.data.filters import Expr
from sparkgap.data.footers import part_of, plan_units, read_footer
from sparkgap.data.parquet_read import Table, read_part
from sparkgap.data.source import Chunk, Source
from sparkgap.data.splits import FilePart, Split, Unit, plan_splits
from sparkgap.data.where import Where, parse, quoted, to_column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType, StructField


@dataclass(frozen=True)
class Catalog:
    """What only the driver knows of a source; it stays behind when the source goes to a task.

    Args:
        files: every file and its part.
        tops: files and folders as the user named them.
        where: the whole filter, also the part that chose among the folders.
        frame: the DataFrame that was recognised as these files, where there is one.
        units: the units of work, where they are known already.
        strict: whether files may not have other columns than the first one.
    """

    files: tuple[tuple[FileEntry, FilePart], ...]
    tops: tuple[tuple[str, str], ...] = ()
    where: Expr | None = None
    frame: DataFrame | None = None
    units: tuple[Unit, ...] | None = None
    strict: bool = True


@dataclass(frozen=True)
class FileSource(Source):
    """Parquet files, some of their columns, and a filter. Made by `gap.files`, or from a DataFrame.

    Args:
        table: what the files hold.
        select: (name, column of the table) for each column that reading gives, in order.
        where: rows that stay; None for all.
        catalog: the files; None in a task.
    """

    name: ClassVar[str] = "Parquet files"

    table: Table
    select: tuple[tuple[str, str], ...]
    where: Expr | None = None
    catalog: Catalog | None = field(default=None, repr=False, compare=False)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, self.table.schema.field(column).type) for name, column in self.select])

    @property
    def frame(self) -> DataFrame | None:
        """The DataFrame that was recognised as these files; None for those of `gap.files`. Driver side."""
        return None if self.catalog is None else self.catalog.frame

    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
        catalog = self._on_driver()
        units = catalog.units
        if units is None:
            needed = sorted({column for _, column in self.select} | filters.columns(self.where))
            units = tuple(plan_units(self.table, catalog.files, needed, self.where, strict=catalog.strict))
            object.__setattr__(self, "catalog", replace(catalog, units=units))  # a cache: same files, same units
        return plan_splits(units, tasks=tasks, max_bytes=max_bytes)

    def read(self, split: Split, *, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
        places = dict(self.select)
        stored = [places[name] for name in columns]
        for part in split.parts:
            yield from read_part(self.table, part, stored, columns, self.where, rows)

    def to_df(self, spark: SparkSession) -> DataFrame:
        """Return the same rows read by Spark itself.

        Known exception: Spark skips row groups by statistics that other writers make without NaN, so a comparison of a
        float column may lose rows with NaN there (and -0.0 where it compares with zero), which `read` gives.
        """
        catalog = self._on_driver()
        if catalog.frame is not None:
            return catalog.frame
        if self.table.partitions:  # Spark takes one top folder at a time
            frames = [self._frame_of(spark, [top]) for top in catalog.tops]
            df = functools.reduce(lambda one, next_one: one.unionByName(next_one), frames)
        else:
            df = self._frame_of(spark, catalog.tops)
        for part in filters.conjuncts(catalog.where):
            df = df.where(to_column(part, self.table.schema))
        return df.select([quoted(column).alias(name) for name, column in self.select])

    def _frame_of(self, spark: SparkSession, tops: Sequence[tuple[str, str]]) -> DataFrame:
        from pyspark.sql import types as T

        reader = spark.read
        if not self.table.partitions:
            reader = reader.option("recursiveFileLookup", "true")
        paths = [storage.spark_path(*top) for top in tops]
        df = reader.parquet(*paths)
        # The types of folder columns are ours; with a schema given, Spark makes them of the same texts.
        typed = T.StructType([T.StructField(f.name, self._spark_type(f), f.nullable, f.metadata) for f in df.schema.fields])
        return df if typed == df.schema else reader.schema(typed).parquet(*paths)

    def _spark_type(self, there: StructField) -> DataType:
        from pyspark.sql import types as T

        if there.name not in self.table.partitions:
            return there.dataType
        kinds = {pa.int32(): T.IntegerType, pa.int64(): T.LongType, pa.float64(): T.DoubleType, pa.date32(): T.DateType}
        return kinds.get(self.table.schema.field(there.name).type, T.StringType)()

    def _on_driver(self) -> Catalog:
        if self.catalog is None:
            raise ConfigurationError("The list of files stayed on the driver: plan there, only read in tasks.")
        return self.catalog

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "catalog": None}


def files(
    path: discovery.Paths,
    *,
    columns: Sequence[str] | None = None,
    where: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> FileSource:
    """Name Parquet files that tasks read by themselves, without the way through Spark's rows.

    The files are listed now, and the footer of the first one is read; the others are looked at when work is planned.
    Names that start with "_" or "." and empty files are left out, as in Spark. Folders `name=value` below a folder
    that was given become columns, typed as Spark does: int, bigint, double, date, else string.

    Args:
        path: local path or any URI of pyarrow or fsspec, or several; each a file, a folder (searched to any depth) or
            a glob.
        columns: columns to read, in this order; default all. All files must have them, with the same types.
        where: rows that stay, e.g. ``[("day", ">=", 3), ("city", "in", ["Bern", "Basel"])]``: all must hold; a list
            of such lists: one must hold. With the meaning of Spark SQL: nulls never match, NaN is greater than any
            number. Row groups and partitions that cannot match are not read.
        storage_options: arguments of the fsspec file system; without any, pyarrow's own is used where it has one.

    Raises:
        ConfigurationError: an option does not fit the files.
        DataError: there are no files, or the first one is not a Parquet file.

    Example:
        >>> gap.transform(gap.files("s3://bucket/table/", columns=["x"], where=[("day", "=", 3)]), model)  # doctest: +SKIP
    """
    options = dict(storage_options or {})
    listing = discovery.discover(path, options)
    entries = tuple(e for e in listing.entries if e.size)
    if not entries:
        raise DataError(
            f"There is no Parquet file at {path}: {len(listing.entries)} files, all empty. Names that start with _ or . "
            "are left out, as in Spark."
        )
    table, values = _table(entries, options)
    wanted = list(table.schema.names) if columns is None else _checked(columns, table.schema)
    condition = parse(where, table.schema)
    pairs = [(entry, part_of(entry, row)) for entry, row in zip(entries, values, strict=True)]
    chosen, rest = prune(table, pairs, condition)
    catalog = Catalog(tuple(chosen), listing.tops, condition, strict=columns is None)
    return FileSource(table, tuple((c, c) for c in wanted), rest, catalog)


def _table(entries: Sequence[FileEntry], options: Mapping[str, Any]) -> tuple[Table, list[tuple[Any, ...]]]:
    """Find the columns: those of the first file, and those of the folders' names."""
    pairs = [partitions.parse(e.folders, e.origin) for e in entries]
    names = tuple(name for name, _ in pairs[0])
    for entry, found in zip(entries, pairs, strict=True):
        if tuple(name for name, _ in found) != names:
            raise DataError(
                f"{entry.origin} lies in folders for the columns {[n for n, _ in found]}, {entries[0].origin} in folders "
                f"for {list(names)}. Give paths of one depth, or read them separately."
            )
    inferred = [partitions.infer([found[i][1] for found in pairs]) for i in range(len(names))]
    kinds = {name: kind for name, (kind, _) in zip(names, inferred, strict=True)}
    table = Table(pa.schema([]), names, tuple(sorted(options.items())))
    stored = read_footer(table, part_of(entries[0]), entries[0].origin).schema.to_arrow_schema()
    # A column that is in both places has the folder's value, at the file's position: as in Spark.
    fields = [pa.field(f.name, kinds.get(f.name) or layouts.plain(f.type)) for f in stored]
    fields += [pa.field(n, k) for n, k in kinds.items() if stored.get_field_index(n) < 0]
    twice = sorted({f.name for f in fields if sum(g.name == f.name for g in fields) > 1})
    if twice:
        raise DataError(f"{entries[0].origin} has several columns named {', '.join(twice)}. Name each column once.")
    rows = list(zip(*[column for _, column in inferred], strict=True)) if names else [()] * len(entries)
    return replace(table, schema=pa.schema(fields)), rows


def _checked(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    if isinstance(columns, str) or not columns:
        raise ConfigurationError(f"columns is {columns!r}; give a list of names.")
    unknown = [c for c in columns if schema.get_field_index(c) < 0]
    if unknown:
        raise ConfigurationError(f"columns names {unknown[0]!r}; the files have: {', '.join(schema.names)}.")
    if len(set(columns)) < len(columns):
        raise ConfigurationError(f"columns names a column twice: {list(columns)}.")
    return list(columns)


def prune(
    table: Table, pairs: list[tuple[FileEntry, FilePart]], where: Expr | None
) -> tuple[list[tuple[FileEntry, FilePart]], Expr | None]:
    """Decide what folders' names decide: which files stay, and which parts of the filter rows must still pass."""
    own = set(table.partitions)
    parts = filters.conjuncts(where)
    here = filters.conjoin([p for p in parts if filters.columns(p) and filters.columns(p) <= own])
    if here is None or not pairs:
        return pairs, where
    data = {
        name: pa.array([part.values[i] for _, part in pairs], type=table.schema.field(name).type)
        for i, name in enumerate(table.partitions)
        if name in filters.columns(here)
    }
    mask = filters.evaluate(here, data, len(pairs)).fill_null(False).to_pylist()
    rest = filters.conjoin([p for p in parts if not filters.columns(p) or not filters.columns(p) <= own])
    return [pair for pair, keep in zip(pairs, mask, strict=True) if keep], rest
