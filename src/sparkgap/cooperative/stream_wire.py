"""What goes over a connection to a rank in a streamed pass: greetings and pieces of rows.

Connections are those of `multiprocessing.connection`, authenticated in both directions with the key of the training before
anything else is read. Rows travel as Arrow, never as pickles.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.shards.conform import Field, Shape, conform
from sparkgap.shards.gather import to_numpy
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.kinds import row_shape
from sparkgap.tensors.spec import Block

FEED, LEVEL, OVER = "feed", "level", "over"
"""What a connection is for: rows of a partition; rows of another rank; the end of the pass."""
GO, PIECE, WHOLE = b"g", b"p", b"w"
"""One more piece may come; this is one; these were all."""
_HEAD = struct.Struct("<cQIQ")


@dataclass(frozen=True)
class Hall:
    """Where all ranks listen. A value that travels.

    Args:
        places: address and port of each rank.
        key: which proves that one belongs to this training.
    """

    places: tuple[tuple[str, int], ...]
    key: str = field(repr=False)

    def line(self, rank: int, greeting: Mapping[str, Any]) -> Connection:
        """Connect to a rank.

        Raises:
            OSError: it has gone.
            EOFError: likewise.
            AuthenticationError: it is of another training.
        """
        line = Client(self.places[rank], authkey=self.key.encode())
        line.send_bytes(json.dumps(greeting).encode())
        return line


def admitted(line: Connection, key: str) -> dict[str, Any]:
    """Return the greeting of one who connected.

    Raises:
        AuthenticationError: it is a stranger.
        EOFError: it has gone.
        OSError: likewise.
    """
    deliver_challenge(line, key.encode())
    answer_challenge(line, key.encode())
    greeting: dict[str, Any] = json.loads(line.recv_bytes())
    return greeting


@dataclass(frozen=True)
class Piece:
    """Some rows on their way.

    Args:
        number: of the piece in its partition.
        sum: checksum of its bytes.
        rows: how many there are.
        body: an Arrow stream of one batch.
    """

    number: int
    sum: int
    rows: int
    body: Any

    @classmethod
    def of(cls, number: int, batch: pa.RecordBatch) -> Piece:
        """Make one."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        body = sink.getvalue()
        return cls(number, zlib.crc32(body), batch.num_rows, body)

    def message(self) -> bytes:
        """Return what is sent."""
        return b"".join((_HEAD.pack(PIECE, self.number, self.sum, self.rows), self.body))

    @classmethod
    def parse(cls, message: bytes) -> Piece:
        """Read what was sent."""
        _, number, total, rows = _HEAD.unpack_from(message)
        return cls(number, total, rows, memoryview(message)[_HEAD.size :])

    def block(self, fields: Sequence[Field]) -> Block:
        """Return the rows as ndarrays."""
        (batch,) = pa.ipc.open_stream(pa.py_buffer(self.body))
        found = {}
        for one, array in zip(fields, batch.columns, strict=True):
            shape = tuple(d or 0 for d in row_shape(array.type)) if one.listed else ()
            found[one.name] = to_numpy(array, one.spec(shape))
        return found


def batch_of(block: Block, fields: Sequence[Field]) -> pa.RecordBatch:
    """Return rows of `Piece.block` as a batch that gives the same again."""
    arrays = [_array(block[one.name], one) for one in fields]
    return pa.RecordBatch.from_arrays(arrays, names=[one.name for one in fields])


def _array(values: np.ndarray, one: Field) -> pa.Array:
    if not one.numeric:
        return pa.array(values.tolist(), type=one.type) if values.dtype == object else pa.array(values).cast(one.type)
    made = pa.array(np.ascontiguousarray(values).reshape(-1))
    for depth in range(values.ndim - 1, 0, -1):
        kind = pa.list_(pa.field("item", made.type), values.shape[depth])
        made = pa.Array.from_buffers(kind, math.prod(values.shape[:depth]), [None], children=[made])
    return made


def conformed(
    batch: pa.RecordBatch, fields: Sequence[Field], shapes: Sequence[Shape], where: str
) -> tuple[pa.RecordBatch, list[Shape]]:
    """Return rows as they travel: the same arrays that shards would hold.

    Args:
        batch: at least one row, as Spark gives it.
        fields: its columns.
        shapes: of the rows before; None where that is not known.
        where: they are, for people.

    Returns:
        The batch, and the shape of the rows of each column.

    Raises:
        DataError: a column of numbers has nulls, or rows of different shapes.
    """
    arrays, found = [], []
    for one, array, before in zip(fields, batch.columns, shapes, strict=True):
        try:
            made, shape = conform(one, array, before, "error")
        except BadRows as bad:
            row, why = next(iter(bad.reasons.items()))
            raise DataError(
                f"Column `{one.name}` of type {one.type} {why}, in row {row} of a batch of {where}. Fill the nulls before "
                "(fillna, coalesce), or leave such rows out (dropna)."
            ) from bad
        if one.listed and shape is None:
            raise DataError(
                f'Column `{one.name}` has rows of different shapes in {where}, and with feed="stream" all rows must have one '
                'shape. Give them one, or use feed="shards".'
            )
        arrays.append(made)
        found.append(shape)
    return pa.RecordBatch.from_arrays(arrays, names=[one.name for one in fields]), found
