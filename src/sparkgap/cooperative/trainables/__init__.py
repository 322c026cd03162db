"""Models as strategies see them: recognised without their frameworks being imported."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables.base import Trainable
from sparkgap.cooperative.trainables.recipe import Recipe

_HOMES = {
    "keras": "sparkgap.cooperative.trainables.keras_trainable:KerasTrainable",
    "torch": "sparkgap.cooperative.trainables.torch_trainable:TorchTrainable",
    "jax": "sparkgap.cooperative.trainables.jax_trainable:JaxTrainable",
}


def trainable_of(model: Any, **options: Any) -> Trainable:
    """Return a model as a trainable, in the process where it is trained.

    Args:
        model: torch module, Keras model, or `JaxModel`, also as a pair (function of the parameters and inputs, parameters).
        options: those of `Recipe`.

    Raises:
        ConfigurationError: the model is of no framework that is known, or an option does not fit it.
        MissingDependencyError: its framework is not installed.
    """
    return train_by(model, Recipe(**options))


def train_by(model: Any, recipe: Recipe) -> Trainable:
    """Return a model as a trainable, by a recipe; raises as `trainable_of`."""
    module, _, name = _HOMES[framework_of(model)].partition(":")
    made: Trainable = getattr(importlib.import_module(module), name)(model, recipe)
    return made


def framework_of(model: Any) -> str:
    """Return ``"torch"``, ``"keras"`` or ``"jax"``; imports nothing.

    Raises:
        ConfigurationError: it is of none of them.
    """
    bases = [f"{c.__module__}.{c.__qualname__}" for c in type(model).__mro__]
    if any(b.startswith("keras.") and b.endswith(".Model") for b in bases):
        return "keras"  # before torch: on that backend its models are modules, too
    if "torch.nn.modules.module.Module" in bases:
        return "torch"
    if "sparkgap.cooperative.trainables.jax_model.JaxModel" in bases:
        return "jax"
    if type(model) is tuple and len(model) == 2 and callable(model[0]):
        return "jax"
    raise ConfigurationError(
        f"A {type(model).__module__}.{type(model).__qualname__} is no model that can be trained here. Give a "
        "torch.nn.Module, a Keras 3 model, or for JAX a pair (apply, params), where apply(params, *inputs) returns the "
        "prediction."
    )


def environment_of(model: Any) -> dict[str, str]:
    """Return environment variables that the process needs before the model is unpickled there: the backend of Keras."""
    if framework_of(model) != "keras":
        return {}
    return {"KERAS_BACKEND": str(sys.modules["keras"].backend.backend())}
