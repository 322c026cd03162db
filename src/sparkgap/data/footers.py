"""Parquet footers on the driver: read by a few threads, checked, turned into units of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from sparkgap._errors import DataError
from sparkgap.data import layouts
from sparkgap.data.discovery import FileEntry
from sparkgap.data.filters import Expr
from sparkgap.data.parquet_read import Table, check_unchanged, explained, type_differs, useful_groups
from sparkgap.data.splits import FilePart, Unit

_THREADS = 16
_MANY = 4096
"""From so many files on, a file is the unit of work and its footer is read by the task."""


def read_footer(table: Table, part: FilePart, origin: str) -> pq.FileMetaData:
    """Read the footer of a file that is what it was when it was listed.

    Raises:
        DataError: it is not a Parquet file.
        FileChangedError: it is another file now.
    """
    with explained(origin):
        system = table.system(part.root)
        check_unchanged(system, part, origin)
        with system.open_input_file(part.path) as handle:
            return pq.read_metadata(handle)


def read_footers(
    table: Table, files: Sequence[tuple[FileEntry, FilePart]]
) -> Iterator[tuple[FileEntry, FilePart, pq.FileMetaData]]:
    """Read the footers of many files, in their order."""
    with ThreadPoolExecutor(min(_THREADS, max(1, len(files)))) as pool:
        metas = pool.map(lambda file: read_footer(table, file[1], file[0].origin), files)
        for (entry, part), meta in zip(files, metas, strict=True):
            yield entry, part, meta


def part_of(entry: FileEntry, values: tuple[object, ...] = ()) -> FilePart:
    """Return the part that is the whole file."""
    return FilePart(entry.root, entry.path, entry.size, entry.mtime_ns, values=values)


def plan_units(
    table: Table, files: Sequence[tuple[FileEntry, FilePart]], columns: Sequence[str], where: Expr | None, *, strict: bool
) -> list[Unit]:
    """Turn files into units of work: their row groups, less those that the filter rules out.

    Args:
        table: what the files hold.
        files: the files.
        columns: names of the columns that will be read; only their bytes count.
        where: the filter.
        strict: whether a file may not have any other columns than the first one.

    Raises:
        DataError: a file does not fit the table; says which and how.
    """
    if len(files) > _MANY:
        return [Unit(part, part.size) for _, part in files]
    units = []
    for entry, part, meta in read_footers(table, files):
        check_fits(table, meta.schema.to_arrow_schema(), entry.origin, columns, strict=strict)
        units.extend(group_units(part, meta, columns, useful_groups(meta, where, table.partitions)))
    return units


def group_units(part: FilePart, meta: pq.FileMetaData, columns: Sequence[str], groups: Sequence[int]) -> list[Unit]:
    """Return one unit for each of these row groups of a file."""
    wanted = set(columns)
    leaves = [j for j in range(len(meta.schema)) if _root(meta.schema.column(j).path, wanted)]
    units = []
    for group in groups:
        described = meta.row_group(group)
        nbytes = sum(described.column(j).total_compressed_size for j in leaves)
        units.append(Unit(FilePart(**{**vars(part), "groups": (group,)}), nbytes, described.num_rows))
    return units


def _root(path: str, wanted: set[str]) -> bool:
    """Whether a leaf belongs to one of the columns. A name with dots may match too much: it only weighs more."""
    pieces = path.split(".")
    return any(".".join(pieces[: i + 1]) in wanted for i in range(len(pieces)))


def check_fits(table: Table, schema: pa.Schema, origin: str, columns: Sequence[str], *, strict: bool) -> None:
    """Refuse a file whose columns are not those of the table.

    Raises:
        DataError: says which file, which column, and what to do.
    """
    stored = [c for c in columns if c not in table.partitions]
    missing = [c for c in stored if schema.get_field_index(c) < 0]
    known = set(table.schema.names)
    further = [n for n in schema.names if n not in known] if strict else []
    if missing or further:
        what = f"lacks `{missing[0]}`" if missing else f"has `{further[0]}`"
        than = "which the first file has" if missing else "which the first file has not"
        raise DataError(
            f"{origin} {what}, {than}. Name the columns that all files have with columns=[…], read such files "
            "separately, or let Spark merge them: spark.read.option('mergeSchema', True).parquet(…)."
        )
    for name in stored:
        have, want = schema.field(name).type, table.schema.field(name).type
        if not layouts.same_values(have, want):
            raise DataError(type_differs(origin, name, have, want))
