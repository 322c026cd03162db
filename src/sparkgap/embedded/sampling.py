"""What `sample=` shows: the first rows of a task as the model got them, what it made of them, and activations."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from sparkgap.embedded.batches import Batch
from sparkgap.embedded.decoding import Piece
from sparkgap.embedded.plan import Input, TransformPlan
from sparkgap.models.base import Predictor
from sparkgap.monitor.reporting import show as show_value
from sparkgap.tensors.image import ImageDecoder
from sparkgap.tensors.spec import Block

_log = logging.getLogger("sparkgap")
_TOP = 3


def show(plan: TransformPlan, predictor: Predictor, batch: Batch, piece: Piece) -> None:
    """Show a few rows of a piece, on the executor. What goes wrong here is logged, and costs the task nothing."""
    try:
        _show(plan, predictor, batch, piece)
    except Exception as error:  # looking must not fail the work, whatever the model does with so few rows
        _log.warning("The sample of this task cannot be shown: %s", error)


def _show(plan: TransformPlan, predictor: Predictor, batch: Batch, piece: Piece) -> None:
    count = min(plan.sample.rows, piece.count)
    few = {name: array[:count] for name, array in piece.block.items()}
    given = few if plan.signature.batch is None else None  # a fixed batch axis wants whole batches
    outputs = predictor.predict(piece.block if given is None else given)
    for source in plan.inputs:
        _show_input(source, few)
    rows = piece.numbers()[:count]
    kept = {name: batch.data.column(name) for name in plan.keep}
    table = [
        {name: _short(column[int(row)].as_py()) for name, column in kept.items()}
        | {o.column: _told(outputs[o.spec.name][place]) for o in plan.outputs}
        for place, row in enumerate(rows)
    ]
    show_value("sample: rows", table, kind="table")
    if plan.sample.layers:
        for name, array in predictor.layers(plan.sample.layers, piece.block if given is None else given).items():
            show_value(f"layer: {name}", array[:count], kind="histogram")


def _show_input(source: Input, few: Block) -> None:
    name, array = source.spec.name, few[source.spec.name]
    if isinstance(source.decoder, ImageDecoder):
        show_value(f"sample: {name}", array, kind="image")
    elif array.dtype.kind in "biuf" and array.ndim > 1:
        show_value(f"sample: {name}", array, kind="tensor")


def _short(value: Any) -> Any:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


def _told(value: Any) -> Any:
    """Return an output for people: of scores, the highest with their places."""
    array = np.asarray(value)
    if array.ndim == 0:
        return array.item()
    if array.ndim == 1 and array.dtype.kind in "fiu" and array.size > _TOP:
        top = np.argsort(-array, kind="stable")[:_TOP]
        return "highest " + ", ".join(f"[{i}] {array[i]:.4g}" for i in top)
    return str(array.tolist()) if array.size <= 2 * _TOP else f"{array.dtype} {array.shape}"
