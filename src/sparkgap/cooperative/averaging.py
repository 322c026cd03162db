"""The mean of numbers over all ranks, by ``torch.distributed``. In the process of a rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need


def mean_of(what: Any, world: int) -> Any:
    """Return what was given, its numbers replaced by their mean over all ranks; modules and tensors in place.

    Raises:
        ConfigurationError: it is nothing of which there is a mean, or there is no process group.
    """
    torch = need("torch", extra="torch", why="worker.average")
    if not torch.distributed.is_initialized():
        raise ConfigurationError('worker.average needs a process group: gap.train(..., backend="gloo").')
    if isinstance(what, torch.nn.Module):
        with torch.no_grad():
            for tensor in _numbers_of(what):
                _reduce(torch, tensor, world)
        return what
    if isinstance(what, torch.Tensor):
        with torch.no_grad():
            return _reduce(torch, what, world)
    if isinstance(what, dict):
        return {name: mean_of(value, world) for name, value in what.items()}
    if isinstance(what, list | tuple):
        return type(what)(mean_of(value, world) for value in what)
    if isinstance(what, np.ndarray | np.generic | float | int) and not isinstance(what, bool):
        given = np.asarray(what)
        kind = given.dtype if given.dtype.kind == "f" else np.dtype("f8")
        found = _reduce(torch, torch.from_numpy(given.astype(kind, copy=True).reshape(-1)), world).numpy().reshape(given.shape)
        return found if isinstance(what, np.ndarray) else float(found)
    raise ConfigurationError(
        f"worker.average: this is a {type(what).__name__}. It takes modules, tensors, arrays, numbers, and lists and dicts of "
        "them."
    )


def _numbers_of(module: Any) -> Iterator[Any]:
    yield from module.parameters()
    yield from (b for b in module.buffers() if b.is_floating_point())


def _reduce(torch: Any, tensor: Any, world: int) -> Any:
    if not tensor.is_floating_point():
        raise ConfigurationError(f"worker.average: a tensor of {tensor.dtype} has no mean; convert it to floats.")
    torch.distributed.all_reduce(tensor)
    return tensor.div_(world)
