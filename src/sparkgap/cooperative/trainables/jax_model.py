"""A model in JAX, as a value: a function and its parameters. Imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JaxModel:
    """A function with parameters.

    Args:
        apply: ``apply(params, *inputs)`` returns the prediction; with a state, ``apply(params, state, *inputs,
            training=bool)`` returns (prediction, new state). ``module.apply`` of flax.linen is the former.
        params: any pytree of arrays of floats: what is trained.
        state: any pytree of arrays that training changes without gradients; None for none.
    """

    apply: Callable[..., Any]
    params: Any
    state: Any = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the prediction, in inference mode."""
        if self.state is None:
            return self.apply(self.params, *inputs, **named)
        return self.apply(self.params, self.state, *inputs, training=False, **named)[0]
