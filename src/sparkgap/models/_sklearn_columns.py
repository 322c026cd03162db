"""Which tensors a scikit-learn estimator takes, told from what it was fitted with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._optional import need
from sparkgap.tensors.spec import Block, TensorSpec

X = "x"
"""Name of the single input tensor."""

_TEXT = "sklearn.feature_extraction.text"
# Where estimators that wrap another one keep the fitted one.
_INNER = ("best_estimator_", "regressor_", "estimator_")


@dataclass(frozen=True)
class Layout:
    """How input tensors become the argument of an estimator.

    Args:
        kind: ``"matrix"`` for one tensor of numbers or strings, ``"texts"`` for one string a row,
            ``"columns"`` for one tensor a feature.
        names: names of the features, where the estimator was fitted with a data frame, or for ``"columns"``.
        dtypes: dtype a feature for ``"columns"``, None where it is open; for the others a single one.
        width: number of features, where known.
        frame: whether the estimator was fitted with a data frame and wants one.
    """

    kind: str
    names: tuple[str, ...] = ()
    dtypes: tuple[str | None, ...] = ("float64",)
    width: int | None = None
    frame: bool = False

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the specs of the input tensors."""
        if self.kind == "columns":
            return tuple(TensorSpec(n, d, ()) for n, d in zip(self.names, self.dtypes, strict=True))
        return (TensorSpec(X, self.dtypes[0], () if self.kind == "texts" else (self.width,)),)

    def build(self, block: Block) -> Any:
        """Return the argument of the estimator for a block."""
        if self.kind == "columns":
            parts = {n: block[n] for n in self.names}
            return _frame(parts) if self.frame else np.column_stack([p.astype(object) for p in parts.values()])
        if self.kind == "texts":
            return block[X]
        matrix = block[X].astype(object) if self.dtypes[0] == "str" else block[X]
        return _frame(matrix, columns=list(self.names)) if self.frame else matrix

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "dtypes": list(self.dtypes),
            "width": self.width,
            "frame": self.frame,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Layout:
        """Read what `to_json` returned."""
        return cls(raw["kind"], tuple(raw["names"]), tuple(raw["dtypes"]), raw["width"], raw["frame"])


def layout(estimator: Any) -> Layout:
    """Tell the layout of a fitted estimator."""
    if _leaf_module(estimator) == _TEXT:
        return Layout("texts", dtypes=("str",))
    names = tuple(str(n) for n in getattr(estimator, "feature_names_in_", ()))
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        return Layout("matrix")
    special = _not_numbers(estimator, {n: i for i, n in enumerate(names)}, range(width))
    if not special:
        return Layout("matrix", names, width=width, frame=bool(names))
    if not names and [special.get(i) for i in range(width)] == ["str"] * width:
        return Layout("matrix", dtypes=("str",), width=width)
    dtypes = tuple(special.get(i, "float64") for i in range(width))
    return Layout("columns", names or tuple(f"x{i}" for i in range(width)), dtypes, width, bool(names))


def _frame(data: Any, **options: Any) -> Any:
    pandas = need("pandas", extra="sklearn", why="to run an estimator that was fitted with a DataFrame")
    return pandas.DataFrame(data, **options)


def _first_step(estimator: Any) -> Any:
    """Return what sees the input first: searches hand it to their best estimator, pipelines to their first step."""
    while True:
        inner = next((getattr(estimator, a) for a in _INNER if hasattr(estimator, a)), None)
        steps = [s for _, s in getattr(estimator, "steps", None) or () if s is not None and s != "passthrough"]
        if inner is None and not steps:
            return estimator
        estimator = steps[0] if inner is None else inner


def _leaf_module(estimator: Any) -> str | None:
    modules = {c.__module__ for c in type(_first_step(estimator)).__mro__}
    return _TEXT if _TEXT in modules else None


def _not_numbers(estimator: Any, position: Mapping[str, int], columns: Iterable[int]) -> dict[int, str | None]:
    """Find the features that were no numbers when the estimator was fitted, or may not have been.

    Args:
        estimator: a fitted estimator that sees `columns`.
        position: feature name -> number.
        columns: numbers of the features that it sees, in its order.

    Returns:
        Number of the feature -> ``"str"``, or None where its dtype is open.
    """
    first, columns = _first_step(estimator), list(columns)
    found: dict[int, str | None] = {}
    if hasattr(first, "transformers_"):
        for part, chosen in _parts(first, position, columns):
            found |= dict.fromkeys(chosen, "str") if _leaf_module(part) == _TEXT else {}
            found |= dict.fromkeys(chosen, None) if _is_foreign(part) else _not_numbers(part, position, chosen)
        return found
    if hasattr(first, "transformer_list"):  # a union: each part sees all columns
        for _, part in first.transformer_list:
            found |= _not_numbers(part, position, columns)
        return found
    # What encoders and imputers remember of each column.
    seen = [list(c) for c in getattr(first, "categories_", ())] or [[s] for s in getattr(first, "statistics_", ())]
    if len(seen) != len(columns):
        return {}
    text = "str" if getattr(first, "strategy", "") != "constant" else None  # a constant tells nothing of the column
    return {c: text for c, values in zip(columns, seen, strict=True) if any(isinstance(v, str) for v in values)}


def _is_foreign(part: Any) -> bool:
    """Whether a transformer is of the user's own, so that it may take anything."""
    first = _first_step(part)
    own_function = getattr(first, "func", None) is not None and type(first).__name__ == "FunctionTransformer"
    return own_function or type(first).__module__.partition(".")[0] != "sklearn"


def _parts(first: Any, position: Mapping[str, int], columns: list[int]) -> Iterator[tuple[Any, list[int]]]:
    for _, part, chosen in first.transformers_:
        if isinstance(part, str):  # "drop" or "passthrough"
            continue
        if isinstance(chosen, slice):
            picked = columns[chosen]
        else:
            listed = [chosen] if isinstance(chosen, str | int | np.integer) else list(chosen)
            if listed and isinstance(listed[0], bool | np.bool_):
                listed = [i for i, on in enumerate(listed) if on]
            picked = [position[c] if isinstance(c, str) else columns[int(c)] for c in listed]
        yield part, picked
