"""Record batches -> shard files. Runs in one task, or anywhere: needs no Spark."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.shards.conform import Field, Nulls, Shape, conform, null_rows
from sparkgap.shards.folder import Folder
from sparkgap.shards.format import Shard, checksum
from sparkgap.tensors.decoder import BadRows

BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class WritePlan:
    """What a task must know to write its part.

    Args:
        folder: where the shards go.
        data: name of the folder of data below it; it exists.
        fields: the columns, in order.
        shard_bytes: a shard ends when it has so many bytes …
        shard_rows: … or so many rows; None for any number.
        nulls: ``"error"``, ``"nan"`` or ``"skip"``.
        batch_bytes: of a record batch in a shard, about.
    """

    folder: Folder
    data: str
    fields: tuple[Field, ...]
    shard_bytes: int
    shard_rows: int | None = None
    nulls: Nulls = "error"
    batch_bytes: int = BATCH_BYTES


@dataclass(frozen=True)
class Written:
    """A shard, and the shapes of its rows: of each column, `Shape`."""

    shard: Shard
    shapes: tuple[Shape, ...]


class ShardWriter:
    """Writes the rows of one partition. Holds two record batches in memory, or a batch as it comes if that is larger.

    A file's type cannot change. So a shard ends, too, where the rows of a column of lists turn out to have another shape
    than those before; from then on the column is written as lists of any length.

    Args:
        plan: what to write.
        partition: its number; shards are named, and later ordered, by it.
    """

    def __init__(self, plan: WritePlan, partition: int) -> None:
        self._plan = plan
        self._partition = partition
        self._attempt = uuid.uuid4().hex[:12]  # another attempt at the same partition must not share a file
        self._shapes: tuple[Shape, ...] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._file: _File | None = None
        self._row = 0
        self.written: list[Written] = []
        self.skipped = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch whose columns are those of the plan, in order.

        Raises:
            DataError: a row has a null where none may be, or the file cannot be written.
        """
        arrays = self._without_bad(list(batch.columns))
        rows = len(arrays[0]) if arrays else batch.num_rows
        if rows:
            arrays = self._conformed(arrays)
            names = [field.name for field in self._plan.fields]
            self._append(pa.RecordBatch.from_arrays(arrays, schema=self._schema(names)))
        self._row += batch.num_rows

    def finish(self) -> list[Written]:
        """End the last shard. Returns all of them."""
        self._end_shard()
        return self.written

    def abandon(self) -> None:
        """Leave the shard that is being written, after an error. Its file is not in any index, and is removed later."""
        if self._file is not None:
            self._file.close()

    def _schema(self, names: Sequence[str]) -> pa.Schema:
        types = [f.stored(s) for f, s in zip(self._plan.fields, self._shapes or (), strict=True)]
        return pa.schema(list(zip(names, types, strict=True)))

    def _without_bad(self, arrays: list[pa.Array]) -> list[pa.Array]:
        if self._plan.nulls != "skip":
            return arrays
        good = np.ones(len(arrays[0]), bool)
        for field, array in zip(self._plan.fields, arrays, strict=True):
            good[null_rows(field, array)] = False
        self.skipped += int((~good).sum())
        return arrays if good.all() else [array.filter(pa.array(good)) for array in arrays]

    def _conformed(self, arrays: Sequence[pa.Array]) -> list[pa.Array]:
        before = self._shapes or (None,) * len(arrays)
        made = [self._column(f, a, s) for f, a, s in zip(self._plan.fields, arrays, before, strict=True)]
        shapes = tuple(shape for _, shape in made)
        if self._shapes is not None:
            shapes = tuple(new if new == old else None for new, old in zip(shapes, self._shapes, strict=True))
            if shapes != self._shapes:
                self._end_shard()
        self._shapes = shapes
        columns = zip(self._plan.fields, made, shapes, strict=True)
        return [array if array.type == f.stored(s) else array.cast(f.stored(s)) for f, (array, _), s in columns]

    def _column(self, field: Field, array: pa.Array, before: Shape) -> tuple[pa.Array, Shape]:
        try:
            return conform(field, array, before, self._plan.nulls)
        except BadRows as bad:
            row, why = next(iter(bad.reasons.items()))
            raise DataError(
                f"Column `{field.name}` of type {field.type} {why}, in row {self._row + row} of partition {self._partition}"
                f"{f' and {len(bad.reasons) - 1} more rows of that batch' if len(bad.reasons) > 1 else ''}. Fill the nulls "
                'before (fillna, coalesce), or say what becomes of them: nulls="skip" leaves such rows out and counts '
                'them, nulls="nan" makes NaN of them in columns of floats.'
            ) from bad

    def _append(self, batch: pa.RecordBatch) -> None:
        """Cut a batch where record batches and shards end."""
        row_bytes = max(1, batch.nbytes // batch.num_rows)
        start = 0
        while start < batch.num_rows:
            count = min(batch.num_rows - start, self._room(row_bytes))
            self._waiting.append(batch.slice(start, count))
            start += count
            if self._room(row_bytes) == 0 or self._waiting_bytes() >= self._plan.batch_bytes:
                self._flush()
            if self._file is not None and self._full(self._file):
                self._end_shard()

    def _room(self, row_bytes: int) -> int:
        """Return how many rows may be added before something has to end."""
        waiting = sum(b.num_rows for b in self._waiting)
        room = max(1, (self._plan.batch_bytes - self._waiting_bytes()) // row_bytes)
        left = self._plan.shard_bytes - (self._file.bytes if self._file else 0) - self._waiting_bytes()
        room = min(room, max(0 if waiting else 1, -(-left // row_bytes)))
        if self._plan.shard_rows is not None:
            room = min(room, self._plan.shard_rows - (self._file.rows if self._file else 0) - waiting)
        return room

    def _waiting_bytes(self) -> int:
        return sum(b.nbytes for b in self._waiting)

    def _full(self, file: _File) -> bool:
        rows = self._plan.shard_rows
        return file.bytes >= self._plan.shard_bytes or (rows is not None and file.rows >= rows)

    def _flush(self) -> None:
        if not self._waiting:
            return
        with self._plan.folder.telling(self._plan.data, "written"):
            if self._file is None:
                name = f"{self._plan.data}/{self._partition:05}-{len(self.written):05}-{self._attempt}.arrow"
                self._file = _File(self._plan.folder, name, self._waiting[0].schema)
            for batch in pa.Table.from_batches(self._waiting).combine_chunks().to_batches():
                self._file.write(batch)
        self._waiting = []

    def _end_shard(self) -> None:
        self._flush()
        if self._file is not None:
            with self._plan.folder.telling(self._file.name, "written"):
                shard = self._file.close()
            self.written.append(Written(shard, self._shapes or ()))
            self._file = None


class _File:
    """An Arrow IPC file that counts and sums up its bytes as they are written."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        system, path = folder.open()
        self.name = name
        self.rows = 0
        self._sink = _Summed(system.open_output_stream(f"{path}/{name}"))
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, mode="w"), schema)

    @property
    def bytes(self) -> int:
        return self._sink.bytes

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def close(self) -> Shard:
        try:
            self._writer.close()
        finally:
            self._sink.stream.close()
        return Shard(self.name, self.rows, self._sink.bytes, self._sink.checksum)


class _Summed:
    """What `pyarrow.PythonFile` wants of a file, around a stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.bytes = 0
        self.checksum = checksum(b"")
        self.closed = False

    def write(self, data: Any) -> int:
        self.stream.write(data)
        self.checksum = checksum(data, self.checksum)
        self.bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.closed = True
