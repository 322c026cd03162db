"""The state of an evaluation, of either kind: made of rows, merged, and asked for its result. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from sparkgap.blocks.tree import Tree
from sparkgap.evaluation.class_state import ClassState
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.reading import Examples, read
from sparkgap.evaluation.regression_state import RegressionState

State = ClassState | RegressionState
_WIDTH = 16


def state_of(plan: Plan, batch: pa.RecordBatch) -> State:
    """Return what the rows of a batch leave.

    Raises:
        DataError: a value is none that the task can have.
    """
    return _of(plan, read(plan, batch))


def empty_state(plan: Plan) -> State:
    """Return the state of no rows."""
    none = np.empty(0)
    text = np.empty(0, object if plan.text else np.int64)
    label = none if plan.kind == "regression" else text
    shape = (0, 0) if plan.kind == "vector" else (0,)
    probability = None if plan.probability is None else np.empty(shape)
    return _of(plan, Examples(0, np.empty(0, np.int64), label, label, probability, none))


def merged_state(plan: Plan, states: Iterable[State]) -> State:
    """Merge states in a tree whose order is theirs.

    Raises:
        DataError: they do not have the same classes.
    """
    tree = state_tree(plan)
    for state in states:
        tree.add(state)
    return tree.result() or empty_state(plan)


def state_tree(plan: Plan) -> Tree[State]:
    """Return a tree that merges states as they come."""
    return Tree(lambda parts: _merged(plan, parts), _WIDTH)


def _of(plan: Plan, rows: Examples) -> State:
    return RegressionState.of(plan, rows) if plan.kind == "regression" else ClassState.of(plan, rows)


def _merged(plan: Plan, parts: list[State]) -> State:
    if plan.kind == "regression":
        return RegressionState.merged(plan, [p for p in parts if isinstance(p, RegressionState)])
    return ClassState.merged(plan, [p for p in parts if isinstance(p, ClassState)])
