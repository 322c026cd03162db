"""Pieces through the model: halve on out-of-memory, split down to the row on failure, check what comes back."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from sparkgap._errors import MissingDependencyError, ModelOutputError
from sparkgap.embedded.decoding import BadRow, Piece
from sparkgap.models.base import Predictor
from sparkgap.monitor.stats import TaskStats
from sparkgap.tensors.spec import Block, TensorSpec

_log = logging.getLogger("sparkgap")

# What no other row could do better: a wrong model, not a wrong row.
_FATAL = (ModelOutputError, MissingDependencyError)


@dataclass(frozen=True)
class Scored:
    """Output tensors of some rows of a batch."""

    rows: np.ndarray | None
    block: Block
    count: int


class Scorer:
    """Runs the pieces of batches through one predictor.

    Args:
        predictor: the loaded model.
        outputs: specs of the outputs that are wanted.
        fixed: number of rows that every call must have; None for any.
        stop_at_first: whether the first bad row ends the work: then only that row is looked for.
        stats: where halvings and the times of batches are counted.
    """

    def __init__(
        self,
        predictor: Predictor,
        outputs: tuple[TensorSpec, ...],
        *,
        fixed: int | None,
        stop_at_first: bool,
        stats: TaskStats,
    ) -> None:
        self._predictor = predictor
        self._outputs = outputs
        self._fixed = fixed
        self._stop = stop_at_first
        self._stats = stats
        self._limit: int | None = fixed

    @property
    def predictor(self) -> Predictor:
        """The loaded model."""
        return self._predictor

    def score(self, piece: Piece) -> tuple[list[Scored], dict[int, BadRow]]:
        """Score a piece: results in row order, and the rows that the model failed on."""
        done: list[Scored] = []
        bad: dict[int, BadRow] = {}
        self._score(piece, done, bad)
        return done, bad

    def _score(self, piece: Piece, done: list[Scored], bad: dict[int, BadRow]) -> None:
        step = min(piece.count, self._limit or piece.count)
        if step < piece.count:
            for start in range(0, piece.count, step):
                self._score(_cut(piece, start, min(start + step, piece.count)), done, bad)
                if bad and self._stop:
                    return
            return
        try:
            done.append(Scored(piece.rows, self._predict(piece), piece.count))
        except _FATAL:
            raise
        except Exception as error:  # any failure of the model is a failure of some row, until shown otherwise
            self._recover(piece, error, done, bad)

    def _recover(self, piece: Piece, error: Exception, done: list[Scored], bad: dict[int, BadRow]) -> None:
        if piece.count == 1:
            text = f"{type(error).__name__}: {error}"
            bad[int(piece.numbers()[0])] = BadRow(f"model: {type(error).__name__}", f"the model raised {text}", error)
            return
        half = piece.count // 2
        if self._predictor.is_out_of_memory(error) and self._fixed is None:
            self._limit = half
            self._stats.halvings += 1
            _log.warning("Out of memory with a batch of %d rows; going on with %d. (%s)", piece.count, half, error)
        before = len(bad)
        for part in (_cut(piece, 0, half), _cut(piece, half, piece.count)):
            self._score(part, done, bad)
            if bad and self._stop:
                return
        if self._stop and len(bad) == before and not self._predictor.is_out_of_memory(error):
            raise ModelOutputError(
                f"The model failed on a batch of {piece.count} rows ({type(error).__name__}: {error}) and on none of its rows "
                "alone. Use a smaller batch_size, or on_error='null' to take the results of the smaller batches."
            ) from error

    def _predict(self, piece: Piece) -> Block:
        block = piece.block
        if self._fixed is not None and piece.count < self._fixed:
            block = {name: _pad(array, self._fixed) for name, array in block.items()}
        start = time.perf_counter()
        given = self._predictor.predict(block)
        self._stats.batch_done(time.perf_counter() - start)
        rows = self._fixed or piece.count
        return {spec.name: _checked(given, spec, rows)[: piece.count] for spec in self._outputs}


def _cut(piece: Piece, start: int, stop: int) -> Piece:
    rows = np.arange(start, stop) if piece.rows is None else piece.rows[start:stop]
    return Piece(rows, {name: array[start:stop] for name, array in piece.block.items()}, stop - start)


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    """Fill a short batch up with copies of its last row; their results are cut off again."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _checked(given: Block, spec: TensorSpec, rows: int) -> np.ndarray:
    if spec.name not in given:
        raise ModelOutputError(
            f"The model gave no output `{spec.name}`; it gave {', '.join(given) or 'nothing'}. Name its outputs in outputs=…."
        )
    array = np.asarray(given[spec.name])
    shape = spec.shape or ()
    fits = array.ndim == len(shape) + 1 and all(
        want is None or want == have for want, have in zip(shape, array.shape[1:], strict=True)
    )
    if not fits or array.shape[0] != rows:
        raise ModelOutputError(
            f"Output `{spec.name}` has shape {array.shape} for a batch of {rows} rows; expected {spec.describe()} with one "
            "entry a row. If the signature is wrong, give another one to load(..., signature=...)."
        )
    return array  # its dtype is checked where it is encoded
