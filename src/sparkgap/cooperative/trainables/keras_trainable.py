"""Keras models as trainables, on any backend. In the process of a rank."""
# ruff: noqa: D102 - methods are documented at the seam, base.py

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables._keras_compile import compile_model
from sparkgap.cooperative.trainables._keras_steps import make_steps
from sparkgap.cooperative.trainables.base import Batch, Trainable, check_arrays
from sparkgap.cooperative.trainables.columns import Columns
from sparkgap.cooperative.trainables.recipe import Recipe
from sparkgap.models._foreign import cuda_index
from sparkgap.models._keras_predictor import device_name, signature_of


class KerasTrainable(Trainable):
    """A Keras model, trained in place, as its own ``train_on_batch`` does.

    Under a policy with loss scaling (``mixed_float16``) the gradients are those of the scaled loss, which the optimizer
    divides by its scale; all ranks have the same one.

    Args:
        model: built; compiled, or the recipe has loss and optimizer.
        recipe: how it is trained.

    Raises:
        ConfigurationError: the recipe does not fit the model, or the model has a `train_step` of its own.
    """

    framework: ClassVar[str] = "keras"

    def __init__(self, model: Any, recipe: Recipe) -> None:
        self._keras: Any = sys.modules["keras"]
        self._model, self._recipe = model, recipe
        cuda_index(recipe.device, "Keras")
        self._device = device_name(recipe.device, self._keras.backend.backend())
        _check(self._keras, model, recipe)
        with self._keras.device(self._device):
            compile_model(self._keras, model, recipe)
            self._optimizer = model.optimizer
            if not self._optimizer.built:
                self._optimizer.build(model.trainable_variables)
            self._rate = self._settable_rate()
            self._work = make_steps(self._keras, model)
        self._specs = {s.name: s for s in signature_of(model).inputs}
        self._columns = Columns.of(recipe.inputs, recipe.label, list(self._specs))
        self._buffers = _changing(model)
        self._steps = 0

    def parameters(self) -> list[np.ndarray]:
        return [self._array(v) for v in self._model.trainable_variables]

    def load_parameters(self, values: Sequence[np.ndarray]) -> None:
        self._load(values, self._model.trainable_variables, "parameters")

    def buffers(self) -> list[np.ndarray]:
        return [self._array(v) for v in self._buffers]

    def load_buffers(self, values: Sequence[np.ndarray]) -> None:
        self._load(values, self._buffers, "buffers")

    def gradients(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        x, y = self._read(batch)
        with self._keras.device(self._device):
            loss, gradients = self._work.gradients(x, y)
            weights = self._model.trainable_variables
            arrays = [self._gradient(g, w) for g, w in zip(gradients, weights, strict=True)]
            return float(self._keras.ops.convert_to_numpy(loss)), arrays

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        check_arrays(gradients, [tuple(v.shape) for v in self._model.trainable_variables], "gradients")
        with self._keras.device(self._device):
            self._set_scheduled()
            self._work.apply(gradients)
        self._steps += 1

    def step(self, batch: Batch) -> float:
        """Take one step of training alone, by ``train_on_batch``.

        On JAX and under XLA it is one program, whose roundings may differ in the last bit from those of two.
        """
        x, y = self._read(batch)
        with self._keras.device(self._device):
            self._set_scheduled()
            self._model.reset_metrics()
            loss = self._model.train_on_batch(x, y, return_dict=True)["loss"]
        self._steps += 1
        return float(loss)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        x, y = self._read(batch)
        with self._keras.device(self._device):
            self._model.reset_metrics()
            found = self._model.test_on_batch(x, y, return_dict=True)
            self._model.reset_metrics()
        return {name: float(value) for name, value in found.items()}

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": [self._array(v) for v in self._optimizer.variables],
            "seeds": [self._array(v) for v in self._seeds()],
            "rate": self._rate,
            "steps": self._steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._load(state["optimizer"], self._optimizer.variables, "variables of the optimizer")
        self._load(state["seeds"], self._seeds(), "seeds")
        self._rate, self._steps = state["rate"], int(state["steps"])

    def reseed(self, seed: int) -> None:
        """Begin anew with the random numbers of dropout and the like: what follows depends on the seed alone.

        Generators that layers do not hold are beyond reach; Keras asks for those in layers, too.
        """
        states = self._seeds()
        words = np.random.SeedSequence(seed).generate_state(len(states), np.uint32) >> 1  # some backends' are signed
        self._load([np.array([word, 0], np.int64) for word in words], states, "seeds")
        if self._keras.backend.backend() == "torch":
            sys.modules["torch"].manual_seed(seed)  # layers that were given no seed draw from the global generator there

    def model(self) -> Any:
        return self._model

    @property
    def learning_rate(self) -> float:
        if self._rate is None or self._recipe.schedule is None:
            return float(self._keras.ops.convert_to_numpy(self._optimizer.learning_rate))
        return self._rate * self._recipe.factor(self._steps)

    def set_learning_rate(self, value: float) -> None:
        if self._rate is None:
            raise ConfigurationError(_HAS_SCHEDULE)
        self._rate = value
        self._optimizer.learning_rate = value

    def _set_scheduled(self) -> None:
        if self._recipe.schedule is not None:
            self._optimizer.learning_rate = self.learning_rate

    def _settable_rate(self) -> float | None:
        """Return the learning rate; None where the optimizer has a schedule of its own."""
        schedules = self._keras.optimizers.schedules.LearningRateSchedule
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        if isinstance(inner._learning_rate, schedules):
            if self._recipe.schedule is not None:
                raise ConfigurationError(_HAS_SCHEDULE)
            return None
        return float(self._keras.ops.convert_to_numpy(inner.learning_rate))

    def _read(self, batch: Batch) -> tuple[Any, np.ndarray]:
        positional, named, label = self._columns.read(batch)
        given = {**dict(zip(self._specs, positional, strict=False)), **named}
        flat = [_floats(given[name], str(spec.dtype or self._model.dtype)) for name, spec in self._specs.items()]
        struct = getattr(self._model, "_inputs_struct", None)
        x = flat[0] if len(flat) == 1 and not isinstance(struct, Mapping) else flat
        if isinstance(struct, Mapping):
            x = self._keras.tree.pack_sequence_as(struct, flat)
        return x, _floats(label, self._keras.config.floatx())

    def _array(self, value: Any) -> np.ndarray:
        array = np.array(self._keras.ops.convert_to_numpy(value), order="C")
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def _gradient(self, gradient: Any, weight: Any) -> np.ndarray:
        if gradient is None:
            return np.zeros(tuple(weight.shape), np.float32 if weight.dtype == "bfloat16" else weight.dtype)
        return self._array(gradient)

    def _seeds(self) -> list[Any]:
        weights = {id(w) for w in self._model.non_trainable_weights}
        return [v for v in self._model.non_trainable_variables if id(v) not in weights]

    def _load(self, values: Sequence[np.ndarray], variables: Sequence[Any], what: str) -> None:
        check_arrays(values, [tuple(v.shape) for v in variables], what)
        with self._keras.device(self._device):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.asarray(value))


_HAS_SCHEDULE = (
    "The Keras optimizer has a LearningRateSchedule, so its learning rate cannot be changed. Leave out schedule=, or give the "
    "optimizer a number."
)


def _check(keras: Any, model: Any, recipe: Recipe) -> None:
    if not model.built:
        raise ConfigurationError(
            f"The Keras model `{model.name}` is not built, so it has no weights yet. Call it on one batch, or "
            "model.build(input_shape), before it is trained."
        )
    if type(model).train_step is not keras.Model.train_step:
        raise ConfigurationError(
            f"{type(model).__name__} has a train_step of its own, which strategies cannot take apart. Write the loop with "
            "gap.train, or use loss and optimizer only."
        )
    if recipe.precision != "32":
        raise ConfigurationError(
            f"precision is {recipe.precision!r}; a Keras model has the precision that it was built with. Build it after "
            'keras.mixed_precision.set_global_policy("mixed_bfloat16"), and leave out precision=.'
        )
    if not model.trainable_variables:
        raise ConfigurationError(f"The Keras model `{model.name}` has no trainable weights, so there is nothing to train.")


def _changing(model: Any) -> list[Any]:
    """Return the weights that training changes without gradients: not those of frozen layers."""
    layers = [model, *model._flatten_layers(include_self=False)]
    frozen = {id(v) for layer in layers for v in layer._trainable_variables}
    return [w for w in model.non_trainable_weights if id(w) not in frozen]


def _floats(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats in the dtype of the model; others as they are."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return array
    return array.astype(dtype if dtype in ("float64", "float16") else np.float32, copy=False)
