"""Names, shapes and calls of `jax.export` programs, whose arguments are trees of arrays without names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sparkgap._errors import ModelFormatError
from sparkgap._optional import need
from sparkgap.models._foreign import fixed_batch, reading
from sparkgap.tensors.spec import NUMERIC, Dim, Signature, TensorSpec


def named_leaves(jax: ModuleType, tree: Any) -> dict[str, Any]:
    """Name the leaves of what a model returned: keys, fields; ``output_1`` in a sequence; ``output`` for one alone."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    if len(found) == 1 and not any(_words(found[0][0])):
        return {"output": found[0][1]}
    return {"_".join(_parts(path, "output")): leaf for path, leaf in found}


def exported_signature(program: Any, has_params: bool) -> Signature:
    """Read the signature of a program; a symbolic first dimension is a free batch axis.

    Raises:
        ModelFormatError: an input has no batch axis, or the inputs disagree about its length.
    """
    jax = need("jax", extra="jax", why="to read an exported program")
    names = _input_names(jax, program, has_params)
    avals = program.in_avals[len(program.in_avals) - len(names) :] if has_params else program.in_avals
    inputs = dict(zip(names, avals, strict=True))
    for name, aval in inputs.items():
        if not aval.shape:
            raise ModelFormatError(
                f"Input `{name}` of the exported program is a single value without a batch axis, so rows cannot feed "
                "it. Export the function with that value fixed."
            )
    outputs = named_leaves(jax, jax.tree_util.tree_unflatten(program.out_tree, program.out_avals))
    batch = fixed_batch({n: _dim(a.shape[0]) for n, a in inputs.items()}, "exported program")
    return Signature(
        tuple(_spec(n, a) for n, a in inputs.items()),
        tuple(_spec(n, a) for n, a in outputs.items() if a.shape),
        batch,
    )


def exported_call(jax: ModuleType, path: Path, has_params: bool) -> Callable[[Any, dict[str, Any]], Any]:
    """Load a program and return its call: weights (or None) and tensors by name -> what it returns."""
    from jax import export

    with reading(path.name, "a program of jax.export"):
        program = export.deserialize(bytearray(path.read_bytes()))
    names = _input_names(jax, program, has_params)

    def call(params: Any, tensors: dict[str, Any]) -> Any:
        leaves = [*jax.tree.leaves(params), *(tensors[n] for n in names)]
        args, kwargs = jax.tree_util.tree_unflatten(program.in_tree, leaves)
        return program.call(*args, **kwargs)

    return call


def _input_names(jax: ModuleType, program: Any, has_params: bool) -> list[str]:
    tree = jax.tree_util.tree_unflatten(program.in_tree, list(program.in_avals))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    # a path begins with 0 for positional or 1 for keyword arguments, then the argument; params come first
    paths = [p for p in paths if not (has_params and _index(p[0]) == 0 and _index(p[1]) == 0)]
    if len(paths) == 1 and not any(_words(paths[0][1:])):
        return ["input"]
    shift = 1 if has_params else 0
    short = ["_".join(w for w in _words(p[1:]) if w) or f"input_{_index(p[1]) - shift}" for p in paths]
    if len(set(short)) == len(short):
        return short
    return ["_".join(_parts(p[1:], "input")) for p in paths]


def _parts(path: Sequence[Any], prefix: str) -> list[str]:
    words = [word or str(_index(key)) for key, word in zip(path, _words(path), strict=True)]
    return words if path and _words(path)[0] else [prefix, *words]


def _words(path: Sequence[Any]) -> list[str]:
    """Return the text of each step of a path: dict keys and field names; "" for a place in a sequence."""
    return [str(getattr(k, "key", getattr(k, "name", ""))) if not hasattr(k, "idx") else "" for k in path]


def _index(key: Any) -> int:
    return int(getattr(key, "idx", -1))


def _spec(name: str, aval: Any) -> TensorSpec:
    dtype = str(aval.dtype)
    return TensorSpec(name, dtype if dtype in NUMERIC else None, tuple(_dim(d) for d in aval.shape[1:]))


def _dim(dim: Any) -> Dim:
    return dim if isinstance(dim, int) else None  # anything else is symbolic
