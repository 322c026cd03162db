"""Batches to blocks: decode every input, take out bad rows, split by shape where rows are ragged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from sparkgap.embedded.batches import Batch
from sparkgap.embedded.plan import Input
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.spec import Block


@dataclass(frozen=True)
class BadRow:
    """Why a row gives no result.

    Args:
        kind: short text that is the same for rows that fail for the same reason, to count them by.
        reason: the whole reason.
        cause: the exception, where it was the model's.
    """

    kind: str
    reason: str
    cause: BaseException | None = None


@dataclass(frozen=True)
class Piece:
    """Input tensors of some rows of a batch, all of one shape.

    Args:
        rows: row numbers in the batch; None for all rows in order.
        block: the tensors.
        count: number of rows.
    """

    rows: np.ndarray | None
    block: Block
    count: int

    def numbers(self) -> np.ndarray:
        """Return the row numbers in the batch."""
        return np.arange(self.count) if self.rows is None else self.rows


@dataclass
class Decoded:
    """A batch, its good rows as pieces, and its bad rows."""

    batch: Batch
    pieces: list[Piece]
    bad: dict[int, BadRow] = field(default_factory=dict)


def decode(batch: Batch, inputs: Sequence[Input], *, nan_is_bad: bool = False) -> Decoded:
    """Decode a batch. The good path makes no copy and looks at no row."""
    try:
        block = {i.spec.name: i.decoder.decode(batch.data, i.spec) for i in inputs}
        pieces = [Piece(None, block, batch.num_rows)]
        bad: dict[int, BadRow] = {}
    except (BadRows, RaggedRows):
        pieces, bad = _decode_carefully(batch.data, inputs)
    if nan_is_bad:
        pieces = _without_nan(pieces, bad)
    return Decoded(batch, pieces, bad)


def _decode_carefully(data: pa.RecordBatch, inputs: Sequence[Input]) -> tuple[list[Piece], dict[int, BadRow]]:
    bad: dict[int, BadRow] = {}
    for one in inputs:
        try:
            one.decoder.decode(data, one.spec)
        except BadRows as error:
            for row, reason in error.reasons.items():
                kind = f"{one.spec.name}: {_kind(reason)}"
                bad.setdefault(row, BadRow(kind, f"input `{one.spec.name}` {reason}"))
        except RaggedRows:
            continue  # not bad: split by shape below
    good = np.setdiff1d(np.arange(data.num_rows), np.fromiter(bad, dtype=np.int64, count=len(bad)))
    if not len(good):
        return [], bad
    return _by_shape(data, good, inputs), bad


def _by_shape(data: pa.RecordBatch, good: np.ndarray, inputs: Sequence[Input]) -> list[Piece]:
    rows = data.take(pa.array(good))
    shapes: dict[str, list[tuple[int, ...]]] = {}
    block: Block = {}
    for one in inputs:
        try:
            block[one.spec.name] = one.decoder.decode(rows, one.spec)
        except RaggedRows as error:
            shapes[one.spec.name] = error.shapes
    if not shapes:
        return [Piece(good, block, len(good))]
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, shape in enumerate(zip(*shapes.values(), strict=True)):
        groups.setdefault(shape, []).append(number)
    pieces = []
    for numbers in groups.values():
        part = rows.take(pa.array(numbers))
        pieces.append(Piece(good[numbers], {i.spec.name: i.decoder.decode(part, i.spec) for i in inputs}, len(numbers)))
    return pieces


def _without_nan(pieces: list[Piece], bad: dict[int, BadRow]) -> list[Piece]:
    kept = []
    for piece in pieces:
        wrong = np.zeros(piece.count, dtype=bool)
        for name, array in piece.block.items():
            if array.dtype.kind == "f":
                here = np.isnan(array).reshape(piece.count, -1).any(axis=1)
                for row in piece.numbers()[here & ~wrong]:
                    bad[int(row)] = BadRow(f"{name}: NaN", f"input `{name}` has a NaN")
                wrong |= here
        if wrong.any():
            good = ~wrong
            piece = Piece(piece.numbers()[good], {k: v[good] for k, v in piece.block.items()}, int(good.sum()))
        if piece.count:
            kept.append(piece)
    return kept


def _kind(reason: str) -> str:
    """Cut the parts of a reason that differ from row to row: numbers and quoted values."""
    words = [("#" if any(c.isdigit() for c in w) else w) for w in reason.split()]
    return " ".join(words)[:100]
