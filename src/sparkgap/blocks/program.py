"""Programs: functions whose parameters name columns and which return named tensors, and models in their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, ModelOutputError
from sparkgap.blocks.frameworks import exact, framework_of, to_array, to_tensors
from sparkgap.models import registry
from sparkgap.models.function import parameter_names
from sparkgap.models.model import Model, load

NOTHING = "_"
"""What stands for the input of a program without parameters: it is fed with any values, and hands on none."""


@dataclass(frozen=True)
class Program:
    """A user's function with the tensors of its framework made and taken back; what executors call.

    Args:
        function: the user's.
        parameters: those that name its input tensors.
        framework: whose tensors it takes.
    """

    function: Callable[..., Any]
    parameters: tuple[str, ...]
    framework: str

    def __post_init__(self) -> None:
        names = self.parameters or (NOTHING,)
        found = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names])
        object.__setattr__(self, "__signature__", found)

    @property
    def __name__(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def __call__(self, **arrays: Any) -> dict[str, np.ndarray]:
        """Run the function on arrays.

        Raises:
            ModelOutputError: it returned no dict of named tensors.
        """
        given = {name: arrays[name] for name in self.parameters}
        with exact(self.framework):
            result = self.function(**to_tensors(given, self.framework))
            if not isinstance(result, Mapping) or not result or not all(isinstance(n, str) for n in result):
                raise ModelOutputError(
                    f"The program `{self.__name__}` returned {_shown(result)}; it must return a dict of named tensors, "
                    'e.g. {"z": x + 3}.'
                )
            return {name: _tensor(self.__name__, name, value) for name, value in result.items()}


def _shown(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a dict with keys {list(result)!r}"
    return f"a {type(result).__module__}.{type(result).__qualname__}" if result is not None else "None"


def _tensor(program: str, name: str, value: Any) -> np.ndarray:
    try:
        array = to_array(value)
    except ValueError as error:  # nested lists of unequal lengths
        raise ModelOutputError(f"Output `{name}` of the program `{program}` is no tensor: {error}.") from error
    if array.dtype.kind == "O" and not all(v is None or isinstance(v, str | bytes) for v in array.flat):
        raise ModelOutputError(
            f"Output `{name}` of the program `{program}` holds Python objects ({type(next(iter(array.flat))).__qualname__}); "
            "a tensor holds numbers, bools, text or bytes."
        )
    return array


def as_model(program: Any, framework: str | None) -> Model:
    """Return a program as a model, packed: what it captures is frozen now. Driver side.

    Raises:
        ConfigurationError: it is no function and no model, or its parameters have no names.
        ModelFormatError: the function cannot be pickled.
    """
    if not callable(program) or is_model(program):
        if framework is not None:
            raise ConfigurationError(f"framework={framework!r} is for functions; a model has its own. Leave it out.")
        return load(program)
    return load(Program(program, _parameters(program), framework_of(program, framework)), adapter="function")


def is_model(program: Any) -> bool:
    """Whether a program is a model of a framework, and no function."""
    if isinstance(program, Model):
        return True
    adapter, form = registry.recognise(program)
    return (adapter.name, form) not in (("function", "callable"), ("jax", "function"))


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        if not inspect.signature(function).parameters:
            return ()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The parameters of {function!r} cannot be read ({error}), and they name the columns. Wrap it: "
            'lambda x: {"z": f(x)}.'
        ) from error
    return tuple(parameter_names(function))


def name_of(program: Any) -> str:
    """Return a short name of a program for people."""
    return (
        f"{program.adapter} model" if isinstance(program, Model) else str(getattr(program, "__name__", type(program).__name__))
    )
