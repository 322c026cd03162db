"""Parquet on the executor: row groups in, record batches out, a few pages in memory at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from sparkgap._errors import DataError, FileChangedError, SparkGapError
from sparkgap.data import filters, layouts, storage
from sparkgap.data.filters import Bounds, Expr
from sparkgap.data.source import Chunk
from sparkgap.data.splits import FilePart

_LOCAL_BUFFER = 256 << 10
"""Read-ahead of local files. Measured: as fast as a memory map, which would crash the worker on a truncated file."""
_REMOTE_BUFFER = 8 << 20
_REMOTE_WHOLE = 256 << 20
"""Remote row groups up to this size are fetched with few large requests; larger ones are streamed."""


@dataclass(frozen=True)
class Table:
    """What is in a set of files that belong together.

    Args:
        schema: all columns, those of the folders' names included, with the types that reading gives.
        partitions: names of the columns that are in the folders' names, in the order of `FilePart.values`.
        options: options of the file system.
    """

    schema: pa.Schema
    partitions: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)  # may hold secrets

    def system(self, root: str) -> pafs.FileSystem:
        """Return the file system of one of the files."""
        return storage.filesystem(root, dict(self.options))[0]


def read_part(
    table: Table, part: FilePart, columns: Sequence[str], names: Sequence[str], where: Expr | None, rows: int
) -> Iterator[Chunk]:
    """Read columns of one part of a file, named anew, filtered."""
    origin = storage.origin(part.root, part.path)
    needed = list(dict.fromkeys([*columns, *sorted(filters.columns(where))]))
    schema = pa.schema([pa.field(n, table.schema.field(c).type) for n, c in zip(names, columns, strict=True)])
    with explained(origin):
        system = table.system(part.root)
        check_unchanged(system, part, origin)
        with system.open_input_file(part.path) as handle:
            for first, batch in _batches(handle, table, part, needed, where, rows):
                data = _columns(table, part, batch, needed, origin)
                keep = None if where is None else _kept(where, data, batch.num_rows)
                made = pa.RecordBatch.from_arrays([data[c] for c in columns], schema=schema)
                if keep is None:
                    yield Chunk(made, origin, first)
                elif len(keep):
                    yield Chunk(made.take(pa.array(keep)), origin, first, first + keep)


def _batches(
    handle: pa.NativeFile, table: Table, part: FilePart, needed: Sequence[str], where: Expr | None, rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (number of the first row in the file, batch), one row group after the other."""
    meta = pq.read_metadata(handle)
    stored = [c for c in needed if c not in table.partitions]
    groups = part.groups if part.groups is not None else useful_groups(meta, where, table.partitions)
    starts = np.cumsum([0] + [meta.row_group(g).num_rows for g in range(meta.num_row_groups)])
    handle.seek(0)
    file = pq.ParquetFile(handle, metadata=meta, **_buffering(part.root, meta, groups))
    _check_columns(file.schema_arrow, stored, storage.origin(part.root, part.path))
    for group in groups:
        at, stop = 0, meta.row_group(group).num_rows if part.stop is None else part.stop
        for batch in file.iter_batches(rows, row_groups=[group], columns=stored, use_threads=False):
            skipped = max(0, part.start - at)
            kept = batch.slice(skipped, max(0, stop - at - skipped))
            if kept.num_rows:
                yield int(starts[group]) + at + skipped, kept
            at += batch.num_rows
            if at >= stop:
                break


def useful_groups(meta: pq.FileMetaData, where: Expr | None, partitions: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the numbers of the row groups that can hold a row that stays, as their statistics tell."""
    every = [g for g in range(meta.num_row_groups) if meta.row_group(g).num_rows]
    if where is None:
        return tuple(every)
    places = leaves(meta, filters.columns(where) - set(partitions))
    found = []
    for group in every:
        described = meta.row_group(group)
        known = {name: _bounds(described.column(j)) for name, j in places.items()}
        if filters.possible(where, lambda name, known=known: known.get(name, Bounds())):  # type: ignore[misc]
            found.append(group)
    return tuple(found)


def leaves(meta: pq.FileMetaData, names: frozenset[str]) -> dict[str, int]:
    """Return the position of each column that is not nested. A dotted path that is there twice tells nothing."""
    paths = [meta.schema.column(j).path for j in range(len(meta.schema))]
    return {
        name: paths.index(name)
        for name in names
        if paths.count(name) == 1 and meta.schema.column(paths.index(name)).max_repetition_level == 0
    }


def _bounds(column: pq.ColumnChunkMetaData) -> Bounds:
    stats = column.statistics
    if stats is None:
        return Bounds()
    nulls = not stats.has_null_count or stats.null_count > 0
    values = not (stats.has_null_count and stats.null_count == column.num_values)
    try:
        return Bounds(stats.min, stats.max, nulls, values)
    except (OverflowError, ValueError):  # a date that Python does not know
        return Bounds(nulls=nulls, values=values)


def _buffering(root: str, meta: pq.FileMetaData, groups: Sequence[int]) -> dict[str, Any]:
    if not root:
        return {"pre_buffer": False, "buffer_size": _LOCAL_BUFFER}
    largest = max((meta.row_group(g).total_byte_size for g in groups), default=0)
    if largest <= _REMOTE_WHOLE:
        return {"pre_buffer": True}
    return {"pre_buffer": False, "buffer_size": _REMOTE_BUFFER}


def _check_columns(schema: pa.Schema, stored: Sequence[str], origin: str) -> None:
    for name in stored:
        if len(schema.get_all_field_indices(name)) != 1:
            raise DataError(
                f"{origin} has {len(schema.get_all_field_indices(name))} columns named `{name}`, one was expected; it has: "
                f"{', '.join(schema.names)}. Leave it out with columns=, or read such files separately."
            )


def _columns(
    table: Table, part: FilePart, batch: pa.RecordBatch, needed: Sequence[str], origin: str
) -> Mapping[str, pa.Array]:
    data: dict[str, pa.Array] = {}
    for name in needed:
        want = table.schema.field(name).type
        if name in table.partitions:
            value = part.values[table.partitions.index(name)]
            data[name] = pa.repeat(pa.scalar(value, type=want), batch.num_rows)
            continue
        array = batch.column(batch.schema.get_field_index(name))
        if not layouts.same_values(array.type, want):
            raise DataError(type_differs(origin, name, array.type, want))
        data[name] = layouts.conform(array, want)
    return data


def type_differs(origin: str, name: str, have: pa.DataType, want: pa.DataType) -> str:
    """Say that a file does not fit the first one."""
    return (
        f"{origin}: column `{name}` is {have}, in the first file it is {want}. Write the files with one schema, "
        "leave the column out with columns=, or let Spark read them: gap.transform(spark.read.parquet(…), …)."
    )


def _kept(where: Expr, data: Mapping[str, pa.Array], rows: int) -> np.ndarray | None:
    """Return the numbers of the rows that stay; None for all."""
    mask = filters.evaluate(where, data, rows).fill_null(False).to_numpy(zero_copy_only=False)
    return None if mask.all() else np.flatnonzero(mask)


def check_unchanged(system: pafs.FileSystem, part: FilePart, origin: str) -> None:
    """Refuse a file that is not what it was when the work was planned.

    Raises:
        FileChangedError: it is gone, or its size or time is another one.
    """
    info = system.get_file_info(part.path)
    if info.type == pafs.FileType.NotFound:
        raise gone(origin)
    mtime = None if info.mtime is None else info.mtime_ns
    # Milliseconds: file systems and Spark keep no more of it everywhere.
    moved = mtime is not None and part.mtime_ns is not None and mtime // 10**6 != part.mtime_ns // 10**6
    if info.size != part.size or moved:
        raise FileChangedError(
            f"{origin} on host {socket.gethostname()} is not what it was when the work was planned: {info.size} bytes "
            f"changed at {mtime}, planned were {part.size} bytes changed at {part.mtime_ns} (ns since 1970). Run it again, "
            'or use boundary="rows".'
        )


def gone(origin: str) -> FileChangedError:
    """Return the error for a file that is not there (any more)."""
    return FileChangedError(
        f"{origin} is not there on host {socket.gethostname()}. Was it deleted after the work was planned, or does that "
        "host not see the same file system as the driver?"
    )


@contextmanager
def explained(origin: str) -> Iterator[None]:
    """Give errors of pyarrow and of the system the file's name and the host's."""
    try:
        yield
    except SparkGapError:
        raise
    except FileNotFoundError as error:
        raise gone(origin) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{origin} cannot be read on host {socket.gethostname()}: {error}. Is it complete, and is it such a file?"
        ) from error
