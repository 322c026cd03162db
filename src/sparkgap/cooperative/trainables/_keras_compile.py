"""Named losses, optimizers and metrics in Keras: what an uncompiled model is compiled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables.recipe import MOMENTUM, Metric, Recipe, name_of


def compile_model(keras: Any, model: Any, recipe: Recipe) -> None:
    """Compile a model by a recipe; one that is compiled stays as it is.

    Raises:
        ConfigurationError: the recipe lacks something, or says again what the model brings.
    """
    given = [n for n in ("loss", "optimizer", "metrics") if getattr(recipe, n)]
    if getattr(model, "compiled", False):
        if given:
            raise ConfigurationError(
                f"The Keras model `{model.name}` is compiled, so it brings its own loss, optimizer and metrics; got "
                f"{', '.join(f'{n}=' for n in given)} too. Leave them out, or pass a model that is not compiled."
            )
    else:
        recipe.needs("Keras")
        metrics = [_metric(keras, model, recipe, m) for m in recipe.metrics]
        model.compile(optimizer=_optimizer(keras, recipe), loss=_loss(keras, model, recipe), metrics=metrics)
    if model.optimizer is None or model._compile_loss is None:
        raise ConfigurationError(
            f"The Keras model `{model.name}` is compiled without {'an optimizer' if model.optimizer is None else 'a loss'}. "
            "Compile it with both."
        )
    if recipe.clip is not None:
        _set_clip(model.optimizer, recipe.clip)


def _set_clip(optimizer: Any, clip: float) -> None:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
    if optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
        raise ConfigurationError("The Keras optimizer clips gradients already. Leave out clip=, or its own setting.")
    optimizer.global_clipnorm = clip


def _optimizer(keras: Any, recipe: Recipe) -> Any:
    given, known = recipe.optimizer, keras.optimizers
    if given in ("sgd", "momentum"):
        return known.SGD(recipe.rate, momentum=MOMENTUM if given == "momentum" else 0.0)
    if isinstance(given, str):
        return {"adam": known.Adam, "adamw": known.AdamW}[given](recipe.rate)
    made = given if isinstance(given, known.Optimizer) else given() if callable(given) else None
    if not isinstance(made, known.Optimizer):
        raise ConfigurationError(
            f"optimizer is {given!r}, which is no Keras optimizer (got a {type(made).__name__}). Give one: "
            "optimizer=keras.optimizers.SGD(0.1), or a function without parameters that makes it."
        )
    return made


def _loss(keras: Any, model: Any, recipe: Recipe) -> Any:
    given, losses = recipe.loss, keras.losses
    if given == "cross_entropy":
        return _cross_entropy(keras, from_logits=not _ends_in(keras, model, "softmax"))
    if given == "binary_cross_entropy":
        return losses.BinaryCrossentropy(from_logits=not _ends_in(keras, model, "sigmoid"))
    if isinstance(given, str):
        return {"mse": losses.MeanSquaredError, "mae": losses.MeanAbsoluteError, "huber": losses.Huber}[given]()
    return given if isinstance(given, losses.Loss) else _swapped(given)


def _cross_entropy(keras: Any, from_logits: bool) -> Callable[[Any, Any], Any]:
    def cross_entropy(label: Any, prediction: Any) -> Any:
        """Take class numbers, or probabilities where labels have the prediction's shape."""
        losses = keras.losses
        probabilities = len(label.shape) == len(prediction.shape) and label.shape[-1] == prediction.shape[-1]
        function = losses.categorical_crossentropy if probabilities else losses.sparse_categorical_crossentropy
        return function(label, prediction, from_logits=from_logits)

    return cross_entropy


def _metric(keras: Any, model: Any, recipe: Recipe, metric: Metric) -> Any:
    if metric == "accuracy" and recipe.loss == "binary_cross_entropy":
        threshold = 0.5 if _ends_in(keras, model, "sigmoid") else 0.0
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    if isinstance(metric, str | keras.metrics.Metric):
        return metric
    return keras.metrics.MeanMetricWrapper(_swapped(metric), name=name_of(metric))


def _swapped(function: Any) -> Any:
    """Return a function of (label, prediction), as Keras calls it; its own functions are so already."""
    if getattr(function, "__module__", "").partition(".")[0] == "keras":
        return function

    def swapped(label: Any, prediction: Any) -> Any:
        return function(prediction, label)

    swapped.__name__ = name_of(function)
    return swapped


def _ends_in(keras: Any, model: Any, activation: str) -> bool:
    last = model.layers[-1] if model.layers else None
    found = getattr(last, "activation", None)
    known = {"softmax": (keras.activations.softmax, keras.layers.Softmax), "sigmoid": (keras.activations.sigmoid, ())}
    function, layer = known[activation]
    return found is function or isinstance(last, layer)
