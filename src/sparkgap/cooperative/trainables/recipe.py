"""How a model is to be trained: what a user says, checked, as a value that travels. Needs no framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkgap._errors import ConfigurationError

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
METRICS = ("accuracy", "mae", "mse")
PRECISIONS = ("32", "bf16", "16")
MOMENTUM = 0.9
"""Of the optimizer ``"momentum"``."""

Metric = str | Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Recipe:
    """What a `Trainable` is made by, besides the model. Travels where its functions do.

    Args:
        inputs: one column, or several in the model's order (several columns of scalars make one tensor where the model takes
            one), or {tensor: column or list of columns}.
        label: the column to predict.
        loss: one of `LOSSES`, or a function of (prediction, label). Named ones take logits, except where a Keras model ends
            in softmax or sigmoid. None for a compiled Keras model.
        optimizer: one of `OPTIMIZERS`, or what the framework has: a function of the parameters that returns a torch
            optimizer, a Keras optimizer, an optax transformation. None for a compiled Keras model.
        learning_rate: of a named optimizer; default 0.01 for sgd and momentum, else 0.001.
        metrics: of `METRICS`, or functions of (prediction, label).
        clip: largest norm of all gradients together; None for any.
        schedule: function of the number of steps taken that returns the factor of the learning rate; None for 1.
        precision: ``"32"``: that of the model; ``"bf16"`` and ``"16"``: mixed with that.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ConfigurationError: something is unknown, or makes no sense.
    """

    inputs: str | Sequence[str] | Mapping[str, str | Sequence[str]]
    label: str
    loss: str | Callable[[Any, Any], Any] | None = None
    optimizer: Any = None
    learning_rate: float | None = None
    metrics: Sequence[Metric] = ()
    clip: float | None = None
    schedule: Callable[[int], float] | None = None
    precision: str = "32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check what can be checked without the framework."""
        object.__setattr__(self, "metrics", (self.metrics,) if isinstance(self.metrics, str) else tuple(self.metrics))
        _known("loss", self.loss, LOSSES, "a function of (prediction, label)")
        _known("optimizer", self.optimizer, OPTIMIZERS, "an optimizer of the framework, or a function that makes it")
        for metric in self.metrics:
            _known("metric", metric, METRICS, "a function of (prediction, label)")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"precision is {self.precision!r}; it must be one of {', '.join(map(repr, PRECISIONS))}.")
        _positive("clip", self.clip)
        _positive("learning_rate", self.learning_rate)
        if self.learning_rate is not None and not isinstance(self.optimizer, str):
            raise ConfigurationError(
                "learning_rate is for a named optimizer; the one that was given brings its own. Leave it out, or name one "
                f"of {', '.join(OPTIMIZERS)}."
            )
        if self.schedule is not None and not callable(self.schedule):
            raise ConfigurationError(
                f"schedule is {self.schedule!r}; it must be a function of the number of steps taken that returns the "
                "factor of the learning rate."
            )

    @property
    def rate(self) -> float:
        """The learning rate of a named optimizer."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.01 if self.optimizer in ("sgd", "momentum") else 0.001

    def factor(self, steps: int) -> float:
        """Return the schedule's factor after so many steps.

        Raises:
            ConfigurationError: the schedule returned no number.
        """
        if self.schedule is None:
            return 1.0
        found = self.schedule(steps)
        try:
            factor = float(found)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"schedule({steps}) returned {found!r}; it must return a number.") from error
        if not math.isfinite(factor) or factor < 0:
            raise ConfigurationError(f"schedule({steps}) returned {found!r}; it must return a number from 0 on.")
        return factor

    def needs(self, framework: str) -> None:
        """Say that loss and optimizer are needed.

        Raises:
            ConfigurationError: one of them was not given.
        """
        for name, known in (("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) is None:
                raise ConfigurationError(f"A {framework} model needs {name}=: one of {', '.join(known)}, or your own.")


def name_of(metric: Metric) -> str:
    """Return what a metric is called in results."""
    return metric if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))


def _known(what: str, given: Any, known: Iterable[str], other: str) -> None:
    if given is None or (isinstance(given, str) and given in known) or (not isinstance(given, str) and _object(given)):
        return
    raise ConfigurationError(f"There is no {what} {given!r}. Give one of {', '.join(known)}, or {other}.")


def _object(given: Any) -> bool:
    """Tell whether it may be of a framework: callable, an optimizer object, or an optax transformation."""
    return callable(given) or hasattr(given, "param_groups") or hasattr(given, "update") or hasattr(given, "apply_gradients")


def _positive(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name} is {value!r}; it must be a number above 0.")
