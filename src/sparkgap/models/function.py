"""A plain Python function as a model: its parameters name the tensors."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models import pickling
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.models.outputs import name_outputs
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_FILE = "function.pkl"


class FunctionAdapter(ModelAdapter):
    """Any callable on ndarrays; captured variables are frozen when it is packed."""

    name: ClassVar[str] = "function"
    title: ClassVar[str] = "Python function"
    extra: ClassVar[str] = ""
    formats: ClassVar[tuple[Format, ...]] = (Format("callable", "function or callable object on ndarrays", "found"),)

    def match(self, source: Any) -> str | None:
        """Take anything callable."""
        return "callable" if callable(source) else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Pickle the function: by value where it lives in a notebook, script or local module."""
        names = parameter_names(source)
        try:
            (folder / _FILE).write_bytes(pickling.dumps(source))
        except (pickle.PicklingError, TypeError) as error:
            raise ModelFormatError(
                f"The function `{getattr(source, '__name__', source)!s}` cannot be sent to executors: {error}. "
                "Open what it captures (files, locks, sessions) inside the function."
            ) from error
        return Packed("callable", Signature(tuple(TensorSpec(n) for n in names)))

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Unpickle the function that the user's own driver packed."""
        function = pickle.loads((path / _FILE).read_bytes())
        return _FunctionPredictor(function, packed.signature)


class _FunctionPredictor(Predictor):
    def __init__(self, function: Callable[..., Any], signature: Signature) -> None:
        self._function = function
        self._inputs = [s.name for s in signature.inputs]
        self._outputs = [s.name for s in signature.outputs]

    def predict(self, block: Block) -> Block:
        result = self._function(**{name: block[name] for name in self._inputs})
        return {k: np.asarray(v) for k, v in name_outputs(result, self._outputs).items()}


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """Return the parameters of a function that name its input tensors: those without a default.

    Raises:
        ConfigurationError: it takes `*args`, or no parameter at all.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The parameters of {function!r} cannot be read ({error}). Wrap it: lambda x: f(x)."
        ) from error
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ConfigurationError(
            f"{function!r} takes *{next(p.name for p in parameters if p.kind is p.VAR_POSITIONAL)}, so its "
            "inputs have no names. Give it one named parameter an input tensor."
        )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named if p.default is p.empty]
    if not names:
        names = [p.name for p in named]
    if not names:
        raise ConfigurationError(f"{function!r} takes no parameter; give it one named parameter an input tensor.")
    return names
