"""Which tensors a scikit-learn estimator takes, told from what it was fitted with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._optional import need
from sparkgap.tensors.spec import Block, TensorSpec

X = "x"
"""Name of the single input tensor."""

_TEXT = "sklearn.feature_extraction.text"


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
    strings = _strings(estimator, {n: i for i, n in enumerate(names)}, range(width))
    if not strings:
        return Layout("matrix", names, width=width, frame=bool(names))
    if not names and len(strings) == width:
        return Layout("matrix", dtypes=("str",), width=width)
    dtypes = tuple("str" if i in strings else "float64" for i in range(width))
    return Layout("columns", names or tuple(f"x{i}" for i in range(width)), dtypes, width, bool(names))


def _frame(data: Any, **options: Any) -> Any:
    pandas = need("pandas", extra="sklearn", why="to run an estimator that was fitted with a DataFrame")
    return pandas.DataFrame(data, **options)


def _first_step(estimator: Any) -> Any:
    """Return what sees the input first: pipelines hand it to their first step."""
    while getattr(estimator, "steps", None):
        steps = [s for _, s in estimator.steps if s is not None and s != "passthrough"]
        if not steps:
            return estimator
        estimator = steps[0]
    return estimator


def _leaf_module(estimator: Any) -> str | None:
    modules = {c.__module__ for c in type(_first_step(estimator)).__mro__}
    return _TEXT if _TEXT in modules else None


def _strings(estimator: Any, position: Mapping[str, int], columns: Any) -> set[int]:
    """Find the features that were strings when the estimator was fitted.

    Args:
        estimator: a fitted estimator that sees `columns`.
        position: feature name -> number.
        columns: numbers of the features that it sees, in its order.
    """
    first, columns = _first_step(estimator), list(columns)
    if hasattr(first, "transformers_"):
        found: set[int] = set()
        for part, chosen in _parts(first, position, columns):
            found |= set(chosen) if _leaf_module(part) == _TEXT else _strings(part, position, chosen)
        return found
    if hasattr(first, "transformer_list"):  # a union: each part sees all columns
        return set().union(*(_strings(part, position, columns) for _, part in first.transformer_list))
    kinds = [np.asarray(c).dtype.kind for c in getattr(first, "categories_", ())]
    if len(kinds) == len(columns):
        return {c for c, kind in zip(columns, kinds, strict=True) if kind in "OUS"}
    fitted = getattr(first, "_fit_dtype", None)  # what imputers remember of the data
    return set(columns) if fitted is not None and np.dtype(fitted).kind in "OUS" else set()


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
