"""TFRecord files: `tf.train.Example` or `SequenceExample` in frames with CRCs, read and written without TensorFlow."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, RowError
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import part_of
from sparkgap.data.source import Chunk
from sparkgap.data.splits import Unit
from sparkgap.data.storage import Options
from sparkgap.records import example_types
from sparkgap.records.example_decode import Examples
from sparkgap.records.example_encode import examples
from sparkgap.records.example_types import STORED
from sparkgap.records.format import Output, Policy, RecordFile, salvage
from sparkgap.records.frames import Frames, blocks, frame, frames

_ROWS = 4096
_WBITS = {"gzip": 31, "zlib": 15}


@dataclass(frozen=True)
class TFRecord:
    """TFRecord.

    Args:
        payload: ``"example"``: features become columns; ``"bytes"``: records stay as they are, in a column `record`.
        verify: whether reading compares the checksums of records.
        compression: of files that are written: None, ``"gzip"`` or ``"zlib"``. Reading finds out by itself.
    """

    name: ClassVar[str] = "tfrecord"

    payload: str = "example"
    verify: bool = True
    compression: str | None = None

    def __post_init__(self) -> None:
        if self.payload not in ("example", "bytes"):
            raise ConfigurationError(f'payload is {self.payload!r}: "example" or "bytes".')
        if self.compression is not None and self.compression not in _WBITS:
            raise ConfigurationError(f'compression is {self.compression!r}: None, "gzip" or "zlib".')

    def select(self, entries: Sequence[FileEntry], options: Options) -> list[Unit]:
        """Take all files."""
        return [Unit(part_of(e), e.size) for e in entries if e.size]

    def infer(self, file: RecordFile, rows: int) -> pa.Schema:
        """Make a column of each feature: one value where no record has more, else a list."""
        if self.payload == "bytes":
            return pa.schema([("record", pa.binary())])
        with file.open() as stream:
            first = next(frames(blocks(stream), Policy(False, file.origin)), None)
        if first is None:
            raise DataError(f"{file.origin} has no record, so its columns cannot be told. Give schema=.")
        try:
            found = Examples(*_ranges(first, 0, min(rows, len(first.begin)))).infer()
        except ValueError as error:
            raise DataError(
                f"The records of {file.origin} cannot be taken apart: {error}. If they are no tf.train.Example, read "
                'them with payload="bytes".'
            ) from error
        return pa.schema([_inferred(name, *of, file.origin) for name, of in sorted(found.items())])

    def read(self, file: RecordFile, schema: pa.Schema, known: frozenset[str] | None, policy: Policy) -> Iterator[Chunk]:
        """Read a file."""
        with file.open() as stream:
            for found in frames(blocks(stream), policy, verify=self.verify):
                for at in range(0, len(found.begin), _ROWS):
                    part = Frames(found.data, found.begin[at : at + _ROWS], found.end[at : at + _ROWS], found.first + at, 0)
                    yield from self._decoded(part, schema, known, policy, found.offset + part.begin - 12)

    def _decoded(
        self, found: Frames, schema: pa.Schema, known: frozenset[str] | None, policy: Policy, places: np.ndarray
    ) -> Iterator[Chunk]:
        def decode(start: int, stop: int) -> pa.RecordBatch:
            if self.payload == "bytes":
                pairs = zip(found.begin[start:stop].tolist(), found.end[start:stop].tolist(), strict=True)
                return pa.RecordBatch.from_arrays([pa.array([found.data[a:b] for a, b in pairs], pa.binary())], schema=schema)
            made = Examples(*_ranges(found, start, stop))
            unknown = [] if known is None else sorted(set(made.names) - known)
            if unknown:
                raise ValueError(f"Feature `{unknown[0]}` is in none of the records that the schema was inferred from")
            columns = [made.column(field) for field in schema]
            if not columns:
                return pa.RecordBatch.from_struct_array(pa.array([{}] * (stop - start), pa.struct([])))
            return pa.RecordBatch.from_arrays(columns, schema=schema)

        yield from salvage(decode, len(found.begin), found.first, policy, places.tolist())

    def check(self, schema: pa.Schema) -> None:
        """Refuse what is no feature."""
        if self.payload == "example":
            example_types.check(schema)
        elif len(schema) != 1 or not pa.types.is_binary(schema.field(0).type):
            raise ConfigurationError(f'payload="bytes" is for one column of bytes; there are: {", ".join(schema.names)}.')

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> _Writer:
        """Return a writer of one file."""
        return _Writer(self, schema, output)

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """There is none."""


class _Writer:
    def __init__(self, form: TFRecord, schema: pa.Schema, output: Output) -> None:
        suffix = {None: "", "gzip": ".gz", "zlib": ".zlib"}[form.compression]
        self._form, self._names, self._output, self._rows = form, schema.names, output, 0
        self._stream = output.create(f".tfrecord{suffix}")
        self._press = zlib.compressobj(wbits=_WBITS[form.compression]) if form.compression else None

    def add(self, batch: pa.RecordBatch) -> None:
        for at in range(0, batch.num_rows, _ROWS):
            part = batch.slice(at, _ROWS)
            data = frame(self._payloads(part))
            self._stream.write(data if self._press is None else self._press.compress(data))
            self._rows += part.num_rows

    def close(self) -> None:
        if self._press is not None:
            self._stream.write(self._press.flush())
        self._stream.close()
        self._output.wrote(self._rows)

    def _payloads(self, part: pa.RecordBatch) -> list[bytes]:
        if self._form.payload == "example":
            try:
                return examples(part, self._names)
            except ValueError as error:
                raise RowError(f"A row from row {self._rows} of its partition on cannot be written: {error}.") from error
        values: list[bytes] = part.column(0).to_pylist()
        if part.column(0).null_count:
            raise RowError(f"Row {self._rows + values.index(None)} of its partition is null, and a record is not.")  # type: ignore[arg-type]
        return values


def _ranges(found: Frames, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.frombuffer(found.data, np.uint8), found.begin[start:stop], found.end[start:stop]


def _inferred(name: str, kinds: set[int], most: int, nested: int, origin: str) -> pa.Field:
    if len(kinds) != 1:
        said = " and ".join(example_types.NAMES[k] for k in sorted(kinds)) or "always empty"
        raise DataError(f"Feature `{name}` of {origin} is {said}, so its type cannot be told. Give schema=.")
    kind = STORED[kinds.pop()]
    if nested:
        return pa.field(name, pa.list_(pa.list_(kind)))
    return pa.field(name, pa.list_(kind) if most > 1 else kind)
