"""LMDB: files of keys and values, both bytes. Needs the package `lmdb`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, RowError
from sparkgap._optional import need
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import part_of
from sparkgap.data.source import Chunk
from sparkgap.data.splits import Unit
from sparkgap.data.storage import Options
from sparkgap.records.format import Output, Policy, RecordFile, salvage

_ROWS, _BYTES = 4096, 32 << 20
_FIRST_MAP = 16 << 20
_COLUMNS = pa.schema([("key", pa.binary()), ("value", pa.binary())])


@dataclass(frozen=True)
class Lmdb:
    """LMDB.

    Args:
        database: name of a database in the files; None for the main one.
    """

    name: ClassVar[str] = "lmdb"

    database: str | None = None

    def select(self, entries: Sequence[FileEntry], options: Options) -> list[Unit]:
        """Take the files that are no locks."""
        locks = ("lock.mdb", "-lock")
        return [Unit(part_of(e), e.size) for e in entries if not e.path.endswith(locks)]

    def infer(self, file: RecordFile, rows: int) -> pa.Schema:
        """Return the columns: they are the same for all files."""
        return _COLUMNS

    def read(self, file: RecordFile, schema: pa.Schema, known: frozenset[str] | None, policy: Policy) -> Iterator[Chunk]:
        """Read a file, in the order of its keys."""
        lmdb = need("lmdb", extra="records", why="to read LMDB files")
        path = file.local()
        first = 0
        try:
            env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=1 if self.database else 0)
            with env:
                self._check_size(env, path, file.origin)
                for pairs in self._pairs(env):
                    yield from salvage(lambda a, b, pairs=pairs: _batch(pairs[a:b], schema), len(pairs), first, policy)  # type: ignore[misc]
                    first += len(pairs)
        except lmdb.NotFoundError as error:
            raise DataError(f"{file.origin} has no database {self.database!r}.") from error
        except lmdb.Error as error:
            policy.damaged(0, f"{error}, after {first} records")

    def _check_size(self, env: Any, path: Path, origin: str) -> None:
        """Refuse a file that is cut off: touching what is missing would end the process."""
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if path.stat().st_size < needed:
            raise DataError(f"{origin} is cut off: it has {path.stat().st_size} bytes, and says that it needs {needed}.")

    def _pairs(self, env: Any) -> Iterator[list[tuple[bytes, bytes]]]:
        database = env.open_db(self.database.encode(), create=False) if self.database else None
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        with env.begin(db=database) as transaction:
            for key, value in transaction.cursor():
                if pairs and (len(pairs) == _ROWS or size + len(value) > _BYTES):
                    yield pairs
                    pairs, size = [], 0
                pairs.append((key, value))
                size += len(key) + len(value)
        if pairs:
            yield pairs

    def check(self, schema: pa.Schema) -> None:
        """Refuse other columns than a key and a value."""
        good = set(schema.names) <= {"key", "value"} and all(
            pa.types.is_binary(f.type) or pa.types.is_string(f.type) for f in schema
        )
        if not good or not schema.names:
            given = ", ".join(f"{f.name} {f.type}" for f in schema)
            raise ConfigurationError(
                f"LMDB has the columns `key` and `value`, bytes or text; there are: {given}. Select and encode them first."
            )

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> _Writer:
        """Return a writer of one file."""
        return _Writer(self, schema, output)

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """There is none."""


class _Writer:
    """Writes a file of this machine, as LMDB maps it, and copies it where it belongs."""

    def __init__(self, form: Lmdb, schema: pa.Schema, output: Output) -> None:
        if sorted(schema.names) != ["key", "value"]:
            raise ConfigurationError(f"LMDB needs the columns `key` and `value`; there are: {', '.join(schema.names)}.")
        self._lmdb = need("lmdb", extra="records", why="to write LMDB files")
        self._at = schema.names.index("key"), schema.names.index("value")
        self._output, self._rows, self._size = output, 0, _FIRST_MAP
        self._folder = Path(tempfile.mkdtemp(prefix="sparkgap-lmdb-"))
        count = 1 if form.database else 0
        self._env = self._lmdb.open(
            str(self._folder / "data.mdb"), subdir=False, map_size=self._size, lock=False, sync=False, max_dbs=count
        )
        self._database = self._env.open_db(form.database.encode()) if form.database else None

    def add(self, batch: pa.RecordBatch) -> None:
        keys, values = (batch.column(i).cast(pa.binary()).to_pylist() for i in self._at)
        self._check(keys, values)
        while True:
            try:
                self._put(keys, values)
                break
            except self._lmdb.MapFullError:  # the transaction is undone: again, with more room
                self._size *= 2
                self._env.set_mapsize(self._size)
        self._rows += len(keys)

    def close(self) -> None:
        self._env.sync(True)
        self._env.close()
        with self._output.create(".mdb") as out, open(self._folder / "data.mdb", "rb") as made:
            shutil.copyfileobj(made, out, 1 << 20)
        shutil.rmtree(self._folder)
        self._output.wrote(self._rows)

    def _put(self, keys: list[bytes], values: list[bytes]) -> None:
        with self._env.begin(write=True, db=self._database) as transaction:
            for i, (key, value) in enumerate(zip(keys, values, strict=True)):
                if not transaction.put(key, value, overwrite=False):
                    raise RowError(
                        f"Row {self._rows + i} of its partition has the key {key!r} again, and a key has one value."
                    )

    def _check(self, keys: list[bytes], values: list[bytes]) -> None:
        longest = self._env.max_key_size()
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            if not key or len(key) > longest or value is None:
                raise RowError(
                    f"Row {self._rows + i} of its partition has a key of {len(key or b'')} bytes"
                    f"{' and no value' if value is None else ''}: LMDB takes keys of 1 to {longest} bytes, and no nulls."
                )


def _batch(pairs: list[tuple[bytes, bytes]], schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field in schema:
        column = pa.array([pair[0 if field.name == "key" else 1] for pair in pairs], pa.binary())
        columns.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
