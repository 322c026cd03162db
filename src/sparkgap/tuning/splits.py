"""Folds in folds: which rows a model is trained and tested on, as codes a row. Pure, but for scikit-learn's splitters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need

TRAIN, TEST = 1, 2
"""What a row is to a split; 0: nothing."""


def nested(
    rows: int, *, folds: Any, inner: Any, stratify: np.ndarray | None, groups: np.ndarray | None, seed: int
) -> np.ndarray:
    """Split rows into outer folds, and what each of them trains on into inner folds. Driver side.

    Args:
        rows: how many there are.
        folds: how many outer folds, or a splitter of scikit-learn.
        inner: likewise of the inner ones.
        stratify: classes of the rows, whose shares every fold is to have.
        groups: of the rows; one group is never on both sides of a split.
        seed: of the splitters.

    Returns:
        uint8 of shape (outer folds, 1 + inner folds, rows): the outer split, and then the inner ones; `TRAIN`, `TEST` or 0.

    Raises:
        ConfigurationError: rows cannot be split so.
        MissingDependencyError: scikit-learn is not installed.
    """
    codes = []
    for train, test in _splits(folds, np.arange(rows), "folds", stratify, groups, seed):
        parts = [_code(rows, train, test)]
        for inner_train, inner_test in _splits(inner, train, "inner", stratify, groups, seed):
            parts.append(_code(rows, inner_train, inner_test))
        codes.append(parts)
    if len({len(parts) for parts in codes}) > 1:
        raise ConfigurationError(
            f"inner={inner!r}: its number of splits differs between the outer folds. Give a whole number."
        )
    return np.array(codes, np.uint8)


def indices(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, and those to test on, each in their order."""
    return np.flatnonzero(code == TRAIN), np.flatnonzero(code == TEST)


def _splits(
    how: Any, rows: np.ndarray, name: str, stratify: np.ndarray | None, groups: np.ndarray | None, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    splitter = _splitter(how, name, stratify is not None, groups is not None, seed)
    classes, members = (None if one is None else one[rows] for one in (stratify, groups))
    try:
        parts: Iterable[Any] = list(splitter.split(rows, classes, members))
    except ValueError as error:
        raise ConfigurationError(f"{name}={how!r}: {len(rows):,} rows cannot be split so: {error}") from error
    for train, test in parts:
        yield rows[train], rows[test]


def _splitter(how: Any, name: str, stratified: bool, grouped: bool, seed: int) -> Any:
    if hasattr(how, "get_n_splits"):
        return how
    if not isinstance(how, int) or how < 2:
        raise ConfigurationError(f"{name}={how!r}: a whole number from 2, or a splitter of scikit-learn.")
    made = need("sklearn.model_selection", extra="sklearn", why="to split rows into folds")
    if grouped and not stratified:
        return made.GroupKFold(how)  # which shuffles in newer versions only
    kind = made.StratifiedGroupKFold if grouped else made.StratifiedKFold if stratified else made.KFold
    return kind(how, shuffle=True, random_state=seed)


def _code(rows: int, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    code = np.zeros(rows, np.uint8)
    code[train] = TRAIN
    code[test] = TEST
    return code
