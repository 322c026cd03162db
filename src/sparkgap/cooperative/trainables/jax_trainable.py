"""Functions with parameters, in JAX, as trainables. In the process of a rank."""
# ruff: noqa: D102 - methods are documented at the seam, base.py

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.cooperative.trainables import _jax_math as maths
from sparkgap.cooperative.trainables._jax_programs import compile_programs
from sparkgap.cooperative.trainables.base import Batch, Trainable, check_arrays
from sparkgap.cooperative.trainables.columns import Columns, class_numbers
from sparkgap.cooperative.trainables.jax_model import JaxModel
from sparkgap.cooperative.trainables.metrics import measure
from sparkgap.cooperative.trainables.recipe import Recipe, name_of
from sparkgap.models._foreign import cuda_index


class JaxTrainable(Trainable):
    """A function and its parameters; compiled once for each size of batch.

    Args:
        model: `JaxModel`, or the pair (apply, params).
        recipe: how it is trained.

    Raises:
        ConfigurationError: the recipe does not fit the model.
    """

    framework: ClassVar[str] = "jax"

    def __init__(self, model: Any, recipe: Recipe) -> None:
        jax = need("jax", extra="jax", why="to train JAX models")
        recipe.needs("JAX")
        self._jax, self._recipe = jax, recipe
        self._given = model if isinstance(model, JaxModel) else JaxModel(*model)
        self._device = _device(jax, recipe)
        self._columns = Columns.of(recipe.inputs, recipe.label, *_tensors(self._given))
        with jax.default_device(self._device):
            self._params = jax.tree.map(jax.numpy.asarray, self._given.params)
            self._state = jax.tree.map(jax.numpy.asarray, self._given.state)
            self._check()
            self._transform = maths.make_transform(jax, recipe)
            self._slots = self._transform.init(self._params)
        self._rate = None if self._transform.scaled else recipe.rate
        if recipe.schedule is not None and self._base_rate() is None:
            raise ConfigurationError(_NO_RATE)
        self._base = self._base_rate()
        self._steps = 0
        self._programs = compile_programs(jax, self._given, recipe, self._transform)

    def parameters(self) -> list[np.ndarray]:
        return [_array(leaf) for leaf in self._jax.tree.leaves(self._params)]

    def load_parameters(self, values: Sequence[np.ndarray]) -> None:
        self._params = self._filled(self._params, values, "parameters")

    def buffers(self) -> list[np.ndarray]:
        return [_array(leaf) for leaf in self._jax.tree.leaves(self._state)]

    def load_buffers(self, values: Sequence[np.ndarray]) -> None:
        self._state = self._filled(self._state, values, "buffers")

    def gradients(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        with self._jax.default_device(self._device):
            (loss, (self._state, _)), gradients = self._programs.differentiated(self._params, self._state, *self._read(batch))
        return float(loss), [_array(leaf) for leaf in self._jax.tree.leaves(gradients)]

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        if self._recipe.schedule is not None:
            self._set_rate(self.learning_rate)
        with self._jax.default_device(self._device):
            given = self._filled(self._params, gradients, "gradients")
            self._params, self._slots = self._programs.updated(self._params, self._slots, given, self._rate_now())
        self._steps += 1

    def step(self, batch: Batch) -> float:
        """Take one step of training alone, as one program: its roundings may differ in the last bit from those of two."""
        if self._recipe.schedule is not None:
            self._set_rate(self.learning_rate)
        with self._jax.default_device(self._device):
            given = (self._params, self._state, self._slots, self._rate_now(), *self._read(batch))
            loss, self._params, self._state, self._slots = self._programs.stepped(*given)
        self._steps += 1
        return float(loss)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        with self._jax.default_device(self._device):
            read = self._read(batch)
            loss, prediction = self._programs.evaluated(self._params, self._state, *read)
        arrays, binary = (np.asarray(prediction), np.asarray(read[2])), self._recipe.loss == "binary_cross_entropy"
        found = {name_of(m): measure(m, *arrays, axis=-1, threshold=0.0 if binary else None) for m in self._recipe.metrics}
        return {"loss": float(loss), **found}

    def state(self) -> dict[str, Any]:
        slots = [_array(leaf) for leaf in self._jax.tree.leaves(self._slots)]
        return {"optimizer": slots, "rate": self._rate, "base": self._base, "steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._slots = self._filled(self._slots, state["optimizer"], "arrays of the optimizer")
        self._rate, self._base, self._steps = state["rate"], state["base"], int(state["steps"])

    def model(self) -> JaxModel:
        return JaxModel(self._given.apply, self._params, self._state)

    @property
    def learning_rate(self) -> float:
        if self._base is None:
            raise ConfigurationError(_NO_RATE)
        return self._base * self._recipe.factor(self._steps)

    def set_learning_rate(self, value: float) -> None:
        self._set_rate(value)
        self._base = value

    def _rate_now(self) -> Any:
        return None if self._transform.scaled else np.float32(self._rate)

    def _base_rate(self) -> float | None:
        """Return the learning rate; None where it is a constant of the optax transformation."""
        if not self._transform.scaled:
            return self._rate
        held = getattr(self._slots, "hyperparams", {})
        return float(held["learning_rate"]) if "learning_rate" in held else None

    def _set_rate(self, value: float) -> None:
        if self._rate is not None:
            self._rate = value
            return
        held = getattr(self._slots, "hyperparams", {})
        if "learning_rate" not in held:
            raise ConfigurationError(_NO_RATE)
        rate = self._jax.numpy.asarray(value, held["learning_rate"].dtype)
        self._slots = self._slots._replace(hyperparams={**held, "learning_rate": rate})

    def _read(self, batch: Batch) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]:
        positional, named, label = self._columns.read(batch)
        dtype = self._jax.tree.leaves(self._params)[0].dtype
        if self._recipe.loss == "cross_entropy" and (label.dtype.kind != "f" or label.ndim < 2 or label.shape[-1] == 1):
            label = class_numbers(label).astype(np.int32)
        named = {name: _floats(array, dtype) for name, array in named.items()}
        return [_floats(a, dtype) for a in positional], named, _floats(label, dtype)

    def _filled(self, tree: Any, values: Sequence[np.ndarray], what: str) -> Any:
        leaves, structure = self._jax.tree.flatten(tree)
        check_arrays(values, [leaf.shape for leaf in leaves], what)
        put = self._jax.device_put
        # a copy: on a CPU, JAX may otherwise take the memory of the array for its own
        made = [put(np.array(v, leaf.dtype), self._device) for v, leaf in zip(values, leaves, strict=True)]
        return self._jax.tree.unflatten(structure, made)

    def _check(self) -> None:
        leaves, floating = self._jax.tree.leaves(self._params), self._jax.numpy.floating
        odd = next((leaf.dtype for leaf in leaves if not self._jax.numpy.issubdtype(leaf.dtype, floating)), None)
        if not leaves or odd is not None:
            raise ConfigurationError(
                "The params of a JAX model are what is trained, a pytree of floats; got "
                f"{'one without arrays' if odd is None else odd}. Put what is not trained into the function, or into "
                "JaxModel(apply, params, state)."
            )


_NO_RATE = (
    "The optax transformation has its learning rate as a constant, so it cannot be changed. Wrap it: "
    'optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), or name an optimizer: optimizer="adam".'
)


def _device(jax: Any, recipe: Recipe) -> Any:
    if recipe.precision == "16":
        raise ConfigurationError('precision "16" needs loss scaling, which is not made for JAX. Use "bf16" or "32".')
    index = cuda_index(recipe.device, "JAX")
    if index is None:
        return jax.local_devices(backend="cpu")[0]
    try:
        return jax.local_devices(backend="cuda")[index]
    except (RuntimeError, IndexError) as error:
        raise ConfigurationError(
            f"Device {recipe.device!r} was asked for, and JAX does not see it here ({error}). Use device='cpu', or give the "
            "task a GPU and install jax[cuda]."
        ) from error


def _tensors(model: JaxModel) -> tuple[list[str] | None, int | None]:
    """Return the inputs that apply must get, and how many it can get; None where nobody knows."""
    try:
        taken = list(inspect.signature(model.apply).parameters.values())
    except (TypeError, ValueError):
        return None, None
    if any(p.kind is p.VAR_POSITIONAL for p in taken):  # such as apply of flax.linen
        return None, None
    taken = [p for p in taken[1 if model.state is None else 2 :] if p.name != "training"]
    return [p.name for p in taken if p.default is p.empty and p.kind is not p.VAR_KEYWORD], len(taken)


def _array(leaf: Any) -> np.ndarray:
    array = np.array(leaf, order="C")
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _floats(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype, copy=False) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array
