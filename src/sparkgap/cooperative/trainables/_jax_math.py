"""Named losses and optimizers in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.cooperative.trainables.metrics import check_sizes
from sparkgap.cooperative.trainables.recipe import MOMENTUM, Recipe


class Transform(NamedTuple):
    """An optimizer in the form of optax.

    Attributes:
        init: parameters -> state.
        update: (gradients, state, parameters) -> (updates, state).
        scaled: whether the updates have the learning rate in them.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    scaled: bool


def make_transform(jax: Any, recipe: Recipe) -> Transform:
    """Return the optimizer of a recipe. Plain SGD needs no optax.

    Raises:
        ConfigurationError: what was given is no optax transformation.
        MissingDependencyError: optax is not installed.
    """
    made: Any
    given = recipe.optimizer
    if given == "sgd":
        return Transform(lambda params: (), lambda gradients, state, params: (gradients, state), False)
    if given == "momentum":
        return _momentum(jax)
    if isinstance(given, str):
        optax = need("optax", extra="jax", why=f"for the optimizer {given!r} in JAX")
        named = {
            "adam": optax.scale_by_adam,
            "adamw": lambda: optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-4)),
        }[given]()
        return Transform(named.init, named.update, False)
    made = given if hasattr(given, "update") else given() if callable(given) else None
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise ConfigurationError(
            f"optimizer is {given!r}, which is no optax transformation. Give one: optimizer=optax.adam(1e-3), or a function "
            "without parameters that makes it."
        )
    return Transform(made.init, made.update, True)


def _momentum(jax: Any) -> Transform:
    def init(params: Any) -> Any:
        return jax.tree.map(jax.numpy.zeros_like, params)

    def update(gradients: Any, trace: Any, params: Any) -> tuple[Any, Any]:
        trace = jax.tree.map(lambda g, t: g + MOMENTUM * t, gradients, trace)
        return trace, trace

    return Transform(init, update, False)


def clipped(jax: Any, gradients: Any, clip: float) -> Any:
    """Return gradients whose norm together is at most `clip`."""
    numpy = jax.numpy
    norm = numpy.sqrt(sum(numpy.sum(numpy.square(g)) for g in jax.tree.leaves(gradients)))
    factor = numpy.minimum(1.0, clip / numpy.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)


def loss_function(jax: Any, loss: str) -> Callable[[Any, Any], Any]:
    """Return the function of (prediction, label) for the name of a loss; it gives one number a row, or a number."""
    numpy = jax.numpy

    def cross_entropy(prediction: Any, label: Any) -> Any:
        logarithms = jax.nn.log_softmax(prediction, axis=-1)
        if label.ndim == prediction.ndim:
            return -numpy.sum(label * logarithms, axis=-1)
        return -numpy.take_along_axis(logarithms, label[..., None], axis=-1)[..., 0]

    def binary_cross_entropy(prediction: Any, label: Any) -> Any:
        return numpy.maximum(prediction, 0) - prediction * label + numpy.log1p(numpy.exp(-numpy.abs(prediction)))

    def huber(prediction: Any, label: Any) -> Any:
        error = numpy.abs(prediction - label)
        return numpy.where(error <= 1.0, 0.5 * numpy.square(error), error - 0.5)

    def compared(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def compare(prediction: Any, label: Any) -> Any:
            check_sizes(label.shape, prediction.shape)
            return function(prediction, label.reshape(prediction.shape).astype(prediction.dtype))

        return compare

    if loss == "cross_entropy":
        return cross_entropy
    return {
        "binary_cross_entropy": compared(binary_cross_entropy),
        "mse": compared(lambda prediction, label: numpy.square(prediction - label)),
        "mae": compared(lambda prediction, label: numpy.abs(prediction - label)),
        "huber": compared(huber),
    }[loss]
