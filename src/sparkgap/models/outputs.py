"""Naming what a model returned: one array, a sequence or a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparkgap._errors import ModelOutputError


def name_outputs(result: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return a result as a dict of named tensors.

    Args:
        result: one array (or anything with a shape), a sequence of arrays, or a mapping; dataclass-like
            results that offer `keys` and `__getitem__` count as mappings.
        names: the names to give to a single array or a sequence, where known; else ``output``, or
            ``output_0``, ``output_1`` …

    Raises:
        ModelOutputError: there is nothing in the result, or another number of tensors than `names`.
    """
    if isinstance(result, Mapping) or (hasattr(result, "keys") and hasattr(result, "__getitem__")):
        named = {str(k): result[k] for k in result.keys() if result[k] is not None}
    elif isinstance(result, tuple) or (isinstance(result, list) and _holds_arrays(result)):
        given = list(names) or (["output"] if len(result) == 1 else [f"output_{i}" for i in range(len(result))])
        if len(given) != len(result):
            raise ModelOutputError(
                f"The model returned {len(result)} tensors where {len(given)} are expected ({', '.join(given)})."
            )
        named = dict(zip(given, result, strict=True))
    elif result is None:
        raise ModelOutputError("The model returned None. Return an array, a sequence of arrays, or a dict of named arrays.")
    else:
        named = {names[0] if len(names) == 1 else "output": result}
    if not named:
        raise ModelOutputError("The model returned no tensor. Return an array or a dict of named arrays.")
    return named


def _holds_arrays(result: list[Any]) -> bool:
    """A list of arrays is several tensors; a list of plain values is one tensor, a value a row."""
    return bool(result) and all(len(getattr(r, "shape", ())) > 0 for r in result)
