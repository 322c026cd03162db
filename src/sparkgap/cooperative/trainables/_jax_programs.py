"""The compiled parts of training in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sparkgap.cooperative.trainables import _jax_math as maths
from sparkgap.cooperative.trainables.jax_model import JaxModel
from sparkgap.cooperative.trainables.recipe import Recipe


class Programs(NamedTuple):
    """Compiled once for each size of batch. ``read`` is positional inputs, named inputs, label.

    Attributes:
        differentiated: (params, state, *read) -> ((loss, (state, prediction)), gradients).
        updated: (params, slots, gradients, learning rate) -> (params, slots).
        stepped: (params, state, slots, learning rate, *read) -> (loss, params, state, slots).
        evaluated: (params, state, *read) -> (loss, prediction).
    """

    differentiated: Callable[..., Any]
    updated: Callable[..., Any]
    stepped: Callable[..., Any]
    evaluated: Callable[..., Any]


def compile_programs(jax: Any, model: JaxModel, recipe: Recipe, transform: maths.Transform) -> Programs:
    """Return the programs of a model; each is compiled when it is called."""
    forward, update = _forward(jax, model, recipe), _update(jax, recipe, transform)

    def differentiated(params: Any, state: Any, *read: Any) -> Any:
        return jax.value_and_grad(forward, has_aux=True)(params, state, *read, training=True)

    def stepped(params: Any, state: Any, slots: Any, rate: Any, *read: Any) -> Any:
        (loss, (state, _)), gradients = differentiated(params, state, *read)
        params, slots = update(params, slots, gradients, rate)
        return loss, params, state, slots

    def evaluated(params: Any, state: Any, *read: Any) -> Any:
        loss, (_, prediction) = forward(params, state, *read, training=False)
        return loss, prediction

    return Programs(*map(jax.jit, (differentiated, update, stepped, evaluated)))


def _forward(jax: Any, model: JaxModel, recipe: Recipe) -> Callable[..., Any]:
    mixed = jax.numpy.bfloat16 if recipe.precision == "bf16" else None
    loss: Any = maths.loss_function(jax, recipe.loss) if isinstance(recipe.loss, str) else recipe.loss

    def cast(tree: Any, dtype: Any) -> Any:
        if mixed is None:
            return tree
        return jax.tree.map(lambda a: a.astype(dtype) if jax.numpy.issubdtype(a.dtype, jax.numpy.floating) else a, tree)

    def forward(params: Any, state: Any, positional: Any, named: Any, label: Any, *, training: bool) -> Any:
        params, positional, named = cast((params, positional, named), mixed)
        if state is None:
            prediction = model.apply(params, *positional, **named)
        else:
            prediction, new = model.apply(params, state, *positional, training=training, **named)
            state = jax.tree.map(lambda a, old: a.astype(old.dtype), new, state)
        prediction = cast(prediction, jax.numpy.float32)
        return jax.numpy.mean(loss(prediction, label)), (state, prediction)

    return forward


def _update(jax: Any, recipe: Recipe, transform: maths.Transform) -> Callable[..., Any]:
    def update(params: Any, slots: Any, gradients: Any, rate: Any) -> Any:
        if recipe.clip is not None:
            gradients = maths.clipped(jax, gradients, recipe.clip)
        updates, slots = transform.update(gradients, slots, params)
        if not transform.scaled:
            updates = jax.tree.map(lambda u: -rate * u, updates)
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates), slots

    return update
