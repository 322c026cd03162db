"""Reductions in a task: blocks or rows of a partition become one partial result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sparkgap._errors import ModelOutputError
from sparkgap.blocks.cells import checked, stacked
from sparkgap.blocks.tree import Tree
from sparkgap.blocks.worker import call, good_blocks
from sparkgap.embedded.decoding import Decoded
from sparkgap.embedded.plan import TransformPlan
from sparkgap.models.base import Predictor
from sparkgap.monitor.reporter import Attempted
from sparkgap.monitor.stats import TaskStats
from sparkgap.tensors.casts import cast, numpy_dtype
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.encode import encode
from sparkgap.tensors.spec import OBJECTS, Block, TensorSpec

PARTITION = "partition"
"""Column of partial results: which partition they are of."""
WIDTH = 16
"""How many partial results are reduced together."""


@dataclass(frozen=True)
class Reducer:
    """A program that makes one cell of many, and is applied again to what it made.

    Args:
        predictor: the loaded program.
        outputs: specs of the cells.
        pairs: output -> the parameter that takes it.
    """

    predictor: Predictor
    outputs: tuple[TensorSpec, ...]
    pairs: Mapping[str, str]

    def block(self, block: Block, where: str) -> Block:
        """Reduce a block, given by parameter, to one cell an output."""
        given = call(self.predictor, block, where)
        return {spec.name: self._cell(given, spec) for spec in self.outputs}

    def cells(self, cells: list[Block]) -> Block:
        """Reduce several results, which are those of neighbours, to one."""
        one = stacked_cells(cells)
        return self.block({self.pairs[n]: one[n] for n in one}, f"{len(cells)} partial results")

    def pair(self, cells: list[Block]) -> Block:
        """Reduce two rows or results to one; the parameters are named ``x_1`` and ``x_2``."""
        given = {f"{name}_{side}": array for side, cell in zip((1, 2), cells, strict=True) for name, array in cell.items()}
        return self.block(given, "two rows")

    def _cell(self, given: Mapping[str, np.ndarray], spec: TensorSpec) -> np.ndarray:
        array = checked(given, spec)
        if spec.dtype in OBJECTS or array.dtype == numpy_dtype(spec.dtype or ""):
            return array
        try:
            exact: np.ndarray = cast(array.reshape(1, *array.shape), spec.dtype or "").reshape(array.shape)
            return exact
        except BadRows as bad:
            raise ModelOutputError(f"Output `{spec.name}` {bad.reasons[0]}, as the block that was tried had it.") from bad


def stacked_cells(cells: Sequence[Block]) -> Block:
    """Stack cells of equal shape.

    Raises:
        ModelOutputError: their shapes differ.
    """
    for name in cells[0]:
        shapes = sorted({np.shape(c[name]) for c in cells})
        if len(shapes) > 1:
            raise ModelOutputError(
                f"Partial results `{name}` have different shapes, {' and '.join(map(str, shapes))}, and are to "
                "be reduced together. The cells of a reduced column must be equally long."
            )
    return stacked(cells)


def partial_blocks(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None, *, pairs: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """Reduce the blocks of a partition to one row."""
    tree: Tree[Block] | None = None
    for predictor, decoded, piece in good_blocks(plan, stats, feed, begun):
        reducer = Reducer(predictor, tuple(o.spec for o in plan.outputs), pairs)
        tree = tree or Tree(reducer.cells, WIDTH)
        with stats.timed("model"):
            tree.add(reducer.block(piece.block, f"a block of {piece.count} rows at {decoded.batch.locate(0)}"))
    yield from _one_row(plan, stats, tree)


def partial_rows(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None
) -> Iterator[pa.RecordBatch]:
    """Reduce the rows of a partition, two at a time, to one row."""
    tree: Tree[Block] | None = None
    waiting: dict[int, Block] = {}
    left = 0
    for predictor, decoded, piece in good_blocks(plan, stats, feed, begun):
        reducer = Reducer(predictor, tuple(o.spec for o in plan.outputs), {})
        tree = tree or Tree(reducer.pair, 2)
        for number, row in enumerate(piece.numbers().tolist()):  # pieces are of equal shape: rows lie in several of them
            waiting[row] = {o.spec.name: piece.block[f"{o.spec.name}_1"][number] for o in plan.outputs}
        left = left or sum(p.count for p in decoded.pieces)
        left -= piece.count
        if left:
            continue
        with stats.timed("model"):
            for row in sorted(waiting):
                tree.add(waiting[row])
        waiting.clear()
    yield from _one_row(plan, stats, tree)


def _one_row(plan: TransformPlan, stats: TaskStats, tree: Tree[Block] | None) -> Iterator[pa.RecordBatch]:
    cell = None if tree is None else tree.result()
    if cell is None:
        return
    row = stacked([cell])
    arrays = [pa.array([stats.partition], pa.int32()), *(encode(row[o.spec.name], o.spec) for o in plan.outputs)]
    yield pa.RecordBatch.from_arrays(arrays, names=[PARTITION, *(o.column for o in plan.outputs)])
