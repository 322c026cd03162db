"""Rows of an Arrow batch as arrays; rows with nulls or NaN are left out, and counted by what they lack. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from sparkgap._errors import DataError
from sparkgap.evaluation.plan import Plan
from sparkgap.tensors.arrow import tensor
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import is_list, is_string, plain
from sparkgap.tensors.vectors import is_vector, vectors


@dataclass(frozen=True)
class Examples:
    """The good rows of a batch.

    Args:
        seen: how many rows the batch had.
        rows: (n,) their numbers in the batch.
        label: (n,) float64 of a regression; else int64, or text as objects.
        prediction: likewise, or None.
        probability: (n,) or (n, classes) float64, or None.
        weight: (n,) float64.
        skipped: what was wrong -> number of rows.
    """

    seen: int
    rows: np.ndarray
    label: np.ndarray
    prediction: np.ndarray | None
    probability: np.ndarray | None
    weight: np.ndarray
    skipped: Mapping[str, int] = field(default_factory=dict)


def read(plan: Plan, batch: pa.RecordBatch) -> Examples:
    """Read a batch.

    Args:
        plan: says which columns, named as `plan.place` has it.
        batch: some rows.

    Raises:
        DataError: a value is none that the task can have; or rows lack something, and the plan refuses such.
    """
    named = {"label": plan.label, "prediction": plan.prediction, "probability": plan.probability, "weight": plan.weight}
    columns = {role: plain(batch.column(plan.place(c))) for role, c in named.items() if c is not None}
    rows, skipped = _there(plan, {named[role] or "": c for role, c in columns.items()}, batch.num_rows)
    taken = {role: c if len(rows) == len(c) else c.take(pa.array(rows)) for role, c in columns.items()}
    values = {role: _values(plan, role, named[role] or "", column) for role, column in taken.items()}
    good, more = _finite(plan, {named[role] or "": v for role, v in values.items()})
    for reason, count in more.items():
        skipped[reason] = skipped.get(reason, 0) + count
    if not good.all():
        rows, values = rows[good], {role: v[good] for role, v in values.items()}
    values = {role: _fits(plan, role, named[role] or "", v) for role, v in values.items()}
    weight = values.get("weight")
    return Examples(
        batch.num_rows,
        rows,
        values["label"],
        values.get("prediction"),
        values.get("probability"),
        np.ones(len(rows)) if weight is None else weight,
        skipped,
    )


def _there(plan: Plan, columns: Mapping[str, pa.Array], count: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows without nulls, and how many others have which null first."""
    good = np.ones(count, bool)
    skipped: dict[str, int] = {}
    for name, column in columns.items():
        if column.null_count:
            _leave_out(plan, good, np.asarray(column.is_null()), f"`{name}` is null", skipped)
    return np.flatnonzero(good), skipped


def _finite(plan: Plan, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows have no NaN and no infinity, and how many have which."""
    good = np.ones(len(next(iter(values.values()))), bool)
    skipped: dict[str, int] = {}
    for name, array in values.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        rows = array.reshape(len(array), -1)
        _leave_out(plan, good, np.isnan(rows).any(axis=1), f"`{name}` is or has NaN", skipped)
        _leave_out(plan, good, np.isinf(rows).any(axis=1), f"`{name}` is or has an infinity", skipped)
    return good, skipped


def _leave_out(plan: Plan, good: np.ndarray, bad: np.ndarray, reason: str, skipped: dict[str, int]) -> None:
    count = int((bad & good).sum())
    if not count:
        return
    if plan.refuse:
        raise DataError(f"In {count} of {len(bad)} rows {reason}. Fill or filter them, or leave them out with nulls='skip'.")
    skipped[reason] = count
    good &= ~bad


def _values(plan: Plan, role: str, name: str, column: pa.Array) -> np.ndarray:
    """Return a column without nulls as an array; NaN is still there."""
    if role == "probability":
        return _probabilities(name, column)
    if is_string(column.type) and role != "weight":
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
    if pat.is_boolean(column.type):
        column = pc.cast(column, pa.int64())
    array = column.to_numpy(zero_copy_only=False)
    exact = array.dtype.kind in "iu" and role != "weight" and plan.kind != "regression"
    return np.asarray(array, np.int64 if exact else np.float64)


def _probabilities(name: str, column: pa.Array) -> np.ndarray:
    if not (is_list(column.type) or is_vector(column.type)):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    try:
        if is_vector(column.type):
            return vectors(column, None, "float64")
        return tensor(column, (None,), "float64", nulls="nan")
    except RaggedRows as ragged:
        raise DataError(f"Rows of `{name}` have different numbers of probabilities. Each row needs one a class.") from ragged
    except BadRows as bad:
        raise DataError(f"A row of `{name}` {next(iter(bad.reasons.values()))}. Each row needs one number a class.") from bad


def _fits(plan: Plan, role: str, name: str, array: np.ndarray) -> np.ndarray:
    """Return values as the task takes them."""
    if role == "weight":
        _check(array, array < 0, f"Weights are not negative; column `{name}` has", "Filter such rows, or take their size.")
    elif role == "probability":
        return _in_range(name, array)
    elif plan.kind != "regression" and array.dtype.kind == "f":
        remedy = "Cast it, or say task='regression'."
        _check(array, array != np.rint(array), f"Classes are whole numbers or text; column `{name}` has", remedy)
        _check(array, np.abs(array) > 2.0**53, f"Classes are whole numbers up to 2**53; column `{name}` has", remedy)
        return array.astype(np.int64)
    return array


def _in_range(name: str, array: np.ndarray) -> np.ndarray:
    remedy = "Logits become probabilities by a softmax, or for one class a sigmoid."
    _check(array, (array < -1e-6) | (array > 1 + 1e-6), f"Probabilities are from 0 to 1; column `{name}` has", remedy)
    if array.ndim == 2:
        total = array.sum(axis=1)
        _check(total, np.abs(total - 1) > 0.01, f"The probabilities of a row add up to 1; those of `{name}` to", remedy)
    return np.asarray(np.clip(array, 0.0, 1.0))


def _check(array: np.ndarray, wrong: np.ndarray, fact: str, remedy: str) -> None:
    if wrong.any():
        raise DataError(f"{fact} {array[wrong].ravel()[0].item()!r}. {remedy}")
