"""Optional packages: imported where they are needed, named in the error where they are absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from sparkgap._errors import MissingDependencyError


def need(module: str, *, extra: str, why: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra that brings it.

    Args:
        module: dotted module name, e.g. ``"onnxruntime"``.
        extra: the extra of sparkgap that installs it, e.g. ``"onnx"``.
        why: what the caller is doing, as the end of "is needed …", e.g. ``"to run ONNX models"``.

    Raises:
        MissingDependencyError: the package is absent, or it is there and fails to import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == root
        state = "is not installed" if absent else f"is installed but does not import ({error})"
        raise MissingDependencyError(
            f"Package `{root}` is needed {why}, and it {state}. Install it on the driver and on every "
            f"executor: pip install 'sparkgap[{extra}]'."
        ) from error
