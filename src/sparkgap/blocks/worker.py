"""What tasks do with the decoded blocks of a partition: rows one by one, trimmed blocks, partial reductions."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError, ModelOutputError
from sparkgap.blocks.cells import checked, joined, stacked
from sparkgap.embedded.decoding import BadRow, Decoded, Piece
from sparkgap.embedded.plan import TransformPlan
from sparkgap.embedded.scoring import Scored, Scorer
from sparkgap.embedded.worker import check_bad, count_bad, open_predictor
from sparkgap.models.base import Predictor
from sparkgap.monitor.reporter import Attempted, focus
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import phase
from sparkgap.tensors.encode import encode
from sparkgap.tensors.spec import Block

_FATAL = (ModelOutputError, DataError)


class RowScorer(Scorer):
    """Runs a program on one row at a time; results may differ in shape from row to row."""

    def score(self, piece: Piece) -> tuple[list[Scored], dict[int, BadRow]]:
        """Score a piece: the results of equal shape together, and the rows that the program failed on."""
        done: dict[tuple[Any, ...], tuple[list[int], list[Block]]] = {}
        bad: dict[int, BadRow] = {}
        for number, row in enumerate(piece.numbers().tolist()):
            try:
                given = self._predictor.predict({name: array[number] for name, array in piece.block.items()})
            except _FATAL:
                raise
            except Exception as error:  # a failure of the program is one of its row
                bad[row] = BadRow(
                    f"program: {type(error).__name__}", f"the program raised {type(error).__name__}: {error}", error
                )
                if self._stop:
                    break
                continue
            cell = {spec.name: checked(given, spec) for spec in self._outputs}
            rows, cells = done.setdefault(tuple(a.shape for a in cell.values()), ([], []))
            rows.append(row)
            cells.append(cell)
        return [Scored(np.array(rows), stacked(cells), len(rows)) for rows, cells in done.values()], bad


def good_blocks(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None
) -> Iterator[tuple[Predictor, Decoded, Piece]]:
    """Give the blocks of a task with the loaded program; bad rows are raised or left out."""
    predictor: Predictor | None = None
    for decoded in feed:
        focus(begun)
        check_bad(plan, decoded.batch, decoded.bad)
        count_bad(plan, stats, decoded.batch, decoded.bad)
        if predictor is None:
            with phase(begun, "loading the model"):
                predictor = open_predictor(plan, stats)
        for piece in decoded.pieces:
            stats.batches += 1
            stats.batch_rows = max(stats.batch_rows, piece.count)
            yield predictor, decoded, piece


def call(predictor: Predictor, block: Block, where: str) -> Block:
    """Run a program on a block; where it fails, say on what.

    Raises:
        DataError: the program raised an exception.
    """
    try:
        return predictor.predict(block)
    except _FATAL:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in block.items())
        raise DataError(
            f"The program failed on {where} ({type(error).__name__}: {error}). It was given {shapes}.\n\nThe program's own "
            f"traceback:\n{''.join(traceback.format_exception(error)[-12:])}"
        ) from error


def trimmed_rows(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None
) -> Iterator[pa.RecordBatch]:
    """Run a program on whole blocks: its outputs only, as many rows as it gives."""
    for predictor, decoded, piece in good_blocks(plan, stats, feed, begun):
        with stats.timed("model"):
            given = call(predictor, piece.block, f"a block of {piece.count} rows at {decoded.batch.locate(0)}")
        block = {o.spec.name: checked(given, o.spec, rows=True) for o in plan.outputs}
        same_rows(block)
        with stats.timed("encode"):
            yield to_batch(plan, block)


def same_rows(block: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows that all tensors of a block have.

    Raises:
        ModelOutputError: they differ.
    """
    lengths = {name: len(array) for name, array in block.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
        raise ModelOutputError(f"The outputs of a block have different numbers of rows: {found}. Make them equal.")
    return next(iter(lengths.values()))


def to_batch(plan: TransformPlan, block: Block) -> pa.RecordBatch:
    """Encode the outputs of a plan."""
    arrays = [encode(block[o.spec.name], o.spec, o.encoding) for o in plan.outputs]
    return pa.RecordBatch.from_arrays(arrays, names=[o.column for o in plan.outputs])


def join_blocks(blocks: list[Block]) -> Block:
    """Lay blocks end to end."""
    if len(blocks) == 1:
        return blocks[0]
    return {name: joined([b[name] for b in blocks], name) for name in blocks[0]}
