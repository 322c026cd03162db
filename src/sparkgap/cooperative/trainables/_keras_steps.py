"""Gradients and steps of a compiled Keras model, one class a backend: as its own `train_step` takes them, but in two parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparkgap._optional import need


class KerasSteps(ABC):
    """The two parts of a step."""

    def __init__(self, keras: Any, model: Any) -> None:
        self._keras = keras
        self._model = model

    @abstractmethod
    def gradients(self, x: Any, y: Any) -> tuple[Any, Sequence[Any]]:
        """Return the mean loss and its gradients, None where the loss does not depend on a variable."""

    @abstractmethod
    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        """Take a step of the optimizer."""

    def _loss(self, x: Any, y: Any) -> Any:
        model = self._model
        prediction = model(x, training=True) if model._call_has_training_arg else model(x)
        return model.compute_loss(x=x, y=y, y_pred=prediction)


def make_steps(keras: Any, model: Any) -> KerasSteps:
    """Return the steps for the backend that Keras runs on."""
    kinds: dict[str, type[KerasSteps]] = {"tensorflow": _TensorFlowSteps, "jax": _JaxSteps, "torch": _TorchSteps}
    return kinds[keras.backend.backend()](keras, model)


class _TensorFlowSteps(KerasSteps):
    def __init__(self, keras: Any, model: Any) -> None:
        super().__init__(keras, model)
        tensorflow = need("tensorflow", extra="tensorflow", why="to train Keras models on TensorFlow")
        weights, optimizer = model.trainable_variables, model.optimizer

        def gradients(x: Any, y: Any) -> Any:
            with tensorflow.GradientTape() as tape:
                loss = self._loss(x, y)
                scaled = optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, [w.value for w in weights])

        def apply(gradients: Any) -> None:
            optimizer.apply_gradients(zip(gradients, weights, strict=True))

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            if model.run_eagerly:
                return function
            made: Callable[..., Any] = tensorflow.function(function, reduce_retracing=True, jit_compile=model.jit_compile)
            return made

        self._gradients, self._apply = compiled(gradients), compiled(apply)
        self._tensorflow = tensorflow

    def gradients(self, x: Any, y: Any) -> tuple[Any, Sequence[Any]]:
        convert = self._tensorflow.convert_to_tensor
        # arrays as they are would each be a constant of a new program
        loss, gradients = self._gradients(self._keras.tree.map_structure(convert, x), convert(y))
        return loss, [None if g is None else convert(g) for g in gradients]  # those of embeddings are sparse

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        self._apply([self._tensorflow.convert_to_tensor(g) for g in gradients])


class _TorchSteps(KerasSteps):
    def gradients(self, x: Any, y: Any) -> tuple[Any, Sequence[Any]]:
        convert = self._keras.ops.convert_to_tensor
        self._model.train()
        self._model.zero_grad()
        loss = self._loss(self._keras.tree.map_structure(convert, x), convert(y))
        self._model.optimizer.scale_loss(loss).backward()
        return loss, [w.value.grad for w in self._model.trainable_weights]

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        import torch

        convert, model = self._keras.ops.convert_to_tensor, self._model
        with torch.no_grad():
            model.optimizer.apply([convert(g) for g in gradients], model.trainable_weights)


class _JaxSteps(KerasSteps):
    def __init__(self, keras: Any, model: Any) -> None:
        super().__init__(keras, model)
        jax = need("jax", extra="jax", why="to train Keras models on JAX")
        jit = jax.jit if model.jit_compile and not model.run_eagerly else _as_is
        optimizer = model.optimizer

        def loss(trainable: Any, others: Any, slots: Any, x: Any, y: Any) -> Any:
            variables = model.non_trainable_variables
            values = zip(
                [*model.trainable_variables, *variables, *optimizer.variables], [*trainable, *others, *slots], strict=True
            )
            with keras.StatelessScope(state_mapping=list(values)) as scope:
                found = self._loss(x, y)
                scaled = optimizer.scale_loss(found)
                changed = [v.value if (new := scope.get_current_value(v)) is None else new for v in variables]
            return scaled, (found, changed)

        self._gradients = jit(jax.value_and_grad(loss, has_aux=True))
        self._apply = jit(optimizer.stateless_apply)

    def gradients(self, x: Any, y: Any) -> tuple[Any, Sequence[Any]]:
        model = self._model
        slots = _values(model.optimizer.variables)
        values = (_values(model.trainable_variables), _values(model.non_trainable_variables), slots)
        (_, (loss, changed)), gradients = self._gradients(*values, x, y)
        _assign(model.non_trainable_variables, changed)
        return loss, gradients

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        model, optimizer = self._model, self._model.optimizer
        trained, slots = self._apply(_values(optimizer.variables), list(gradients), _values(model.trainable_variables))
        _assign(model.trainable_variables, trained)
        _assign(optimizer.variables, slots)


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _values(variables: Sequence[Any]) -> list[Any]:
    return [v.value for v in variables]


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
