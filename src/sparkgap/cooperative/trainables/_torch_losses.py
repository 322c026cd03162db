"""The named losses and optimizers in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables.metrics import check_sizes
from sparkgap.cooperative.trainables.recipe import MOMENTUM, Recipe


def loss_function(torch: Any, loss: str) -> Callable[[Any, Any], Any]:
    """Return the function of (prediction, label) for the name of a loss."""
    functions = torch.nn.functional
    if loss == "cross_entropy":
        return functions.cross_entropy  # type: ignore[no-any-return]
    found = {
        "binary_cross_entropy": functions.binary_cross_entropy_with_logits,
        "mse": functions.mse_loss,
        "mae": functions.l1_loss,
        "huber": functions.huber_loss,
    }[loss]

    def compare(prediction: Any, label: Any) -> Any:
        check_sizes(tuple(label.shape), tuple(prediction.shape))
        return found(prediction, label.to(prediction.dtype).reshape(prediction.shape))

    return compare


def prediction_of(torch: Any, output: Any) -> Any:
    """Return the one tensor that a model predicts: its output, the ``logits`` in it, or the only tensor in it.

    Raises:
        ConfigurationError: there are several.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    values = list(output.values()) if isinstance(output, Mapping) else list(output) if isinstance(output, list | tuple) else []
    if len(values) == 1 and isinstance(values[0], torch.Tensor):
        return values[0]
    raise ConfigurationError(
        f"The module returns a {type(output).__name__}, of which a named loss cannot tell the prediction. Return one "
        "tensor, or give loss= a function of (what the module returns, label)."
    )


def mean_loss(torch: Any, loss: Any) -> Any:
    """Return a loss as one number: where the function gives one a row, their mean.

    Raises:
        ConfigurationError: it is no tensor.
    """
    if not isinstance(loss, torch.Tensor):
        raise ConfigurationError(f"loss returned a {type(loss).__name__}; it must return a tensor.")
    return loss if loss.ndim == 0 else loss.mean()


def make_optimizer(torch: Any, recipe: Recipe, parameters: list[Any]) -> Any:
    """Return the optimizer of a recipe.

    Raises:
        ConfigurationError: what was given is no optimizer, or one of other parameters.
    """
    given, optim = recipe.optimizer, torch.optim
    if isinstance(given, str):
        if given in ("sgd", "momentum"):
            return optim.SGD(parameters, lr=recipe.rate, momentum=MOMENTUM if given == "momentum" else 0.0)
        return {"adam": optim.Adam, "adamw": optim.AdamW}[given](parameters, lr=recipe.rate)
    made = given if isinstance(given, optim.Optimizer) else given(parameters) if callable(given) else None
    if not isinstance(made, optim.Optimizer):
        raise ConfigurationError(
            f"optimizer is {given!r}, which makes no torch optimizer (got a {type(made).__name__}). Give a function of the "
            "parameters: optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        )
    if not _identities(p for g in made.param_groups for p in g["params"]) <= _identities(parameters):
        raise ConfigurationError(
            "The optimizer has parameters that are not among those of the module that are trained. Give a function of the "
            "parameters, which makes it: optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        )
    return made


def check_parameters(torch: Any, module: Any) -> None:
    """Refuse a module whose parameters do not exist yet, or none of which is trained.

    Raises:
        ConfigurationError: so it is.
    """
    if any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in module.parameters()):
        raise ConfigurationError("The module has lazy layers without shapes. Call it on one batch before it is trained.")
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigurationError("No parameter of the module has requires_grad, so there is nothing to train.")


def _identities(parameters: Iterable[Any]) -> set[int]:
    return {id(p) for p in parameters}
