"""What a network takes and gives, found by running it on one row before it is trained. Driver side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.cooperative.trainables import framework_of
from sparkgap.models.model import load
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_PROBABLE = ("softmax", "sigmoid")
_TITLES = {"torch": "a torch.nn.Module", "keras": "a Keras 3 model"}


@dataclass(frozen=True)
class Probe:
    """What is known of a network.

    Args:
        signature: the tensors it takes and gives, for rows as these.
        output: the tensor that is the prediction.
        width: length of a row of it; 0 where a row is one number.
        logits: whether it looks as if it gave logits.
        compiled: whether it brings its loss and optimizer.
    """

    signature: Signature
    output: str
    width: int
    logits: bool
    compiled: bool


def is_function(network: Any) -> bool:
    """Whether it is a function that makes a network, as `gap.fit` tells."""
    return callable(network) and not hasattr(network, "parameters") and not hasattr(network, "weights")


def check_network(network: Any, framework: str) -> None:
    """Refuse what is no network of a framework.

    Raises:
        ConfigurationError: so it is.
    """
    wanted = f"{_TITLES[framework]}, or a function without arguments that makes one"
    try:
        found = framework_of(network)
    except ConfigurationError as error:
        raise ConfigurationError(f"network is a {type(network).__qualname__}; it must be {wanted}.") from error
    if found != framework:
        raise ConfigurationError(f"network is a {type(network).__qualname__} of {found}; it must be {wanted}.")


def made(network: Any, framework: str) -> Any:
    """Return the network, which a function makes.

    Raises:
        ConfigurationError: it makes none of the framework.
    """
    found = network() if is_function(network) else network
    check_network(found, framework)
    return found


def probe(network: Any, row: Mapping[str, np.ndarray], inputs: Sequence[str]) -> Probe:
    """Run a network on one row. The network stays as it is.

    Args:
        network: as `made` returns it.
        row: arrays with one entry.
        inputs: names of the columns, in the network's order.

    Raises:
        SignatureError: it does not take such rows.
        ConfigurationError: it gives no such prediction.
    """
    model = load(network)
    block = _block(row, inputs, [spec.name for spec in model.signature.inputs])
    given = ", ".join(f"{name}: {TensorSpec.of(name, array).describe()}" for name, array in block.items())
    try:
        found = model.predict(block, threads=1)
    except Exception as error:  # of any class: it is about the user's network
        raise SignatureError(
            f"The network failed on the first row ({type(error).__name__}: {error}). It was given {given}. Make it take such "
            "rows, or change the columns."
        ) from error
    output = _prediction(found)
    shape = found[output].shape
    if len(shape) not in (1, 2) or shape[0] != 1:
        raise ConfigurationError(
            f"The network gave shape {shape} for one row; a prediction is (rows,) or (rows, outputs). Flatten what it returns."
        )
    signature = Signature(
        tuple(TensorSpec.of(name, array) for name, array in block.items()),
        tuple(TensorSpec.of(name, array) for name, array in found.items()),
        model.signature.batch,
    )
    width = int(shape[1]) if len(shape) == 2 else 0
    return Probe(signature, output, width, not _ends_in_probabilities(network), bool(getattr(network, "compiled", False)))


def check_outputs(found: Probe, *, classes: bool, binary: bool) -> None:
    """Refuse a network that does not give what is to be learned.

    Args:
        found: the network.
        classes: whether it is to tell classes apart.
        binary: whether one output may tell two classes apart.

    Raises:
        ConfigurationError: so it is.
    """
    if not classes and found.width > 1:
        raise ConfigurationError(f"The network gives {found.width} numbers a row; a regressor's network gives one.")
    if classes and found.width < 2 and not binary:
        raise ConfigurationError(
            "The network gives one number a row, which tells no classes apart by this loss. Give it an output for each class, "
            'or loss="binary_cross_entropy" for two classes.'
        )


def _block(row: Mapping[str, np.ndarray], inputs: Sequence[str], tensors: Sequence[str]) -> Block:
    arrays = [np.asarray(row[name]) for name in inputs]
    if len(tensors) == 1 and len(arrays) > 1 and all(array.ndim == 1 for array in arrays):
        return {tensors[0]: np.stack(arrays, axis=1)}
    if len(tensors) != len(arrays):
        raise SignatureError(
            f"The network takes {len(tensors)} tensors ({', '.join(tensors)}), and there are {len(arrays)} columns for it. "
            "Name a column for each in inputCols, in that order."
        )
    return dict(zip(tensors, arrays, strict=True))


def _prediction(found: Block) -> str:
    if "logits" in found:
        return "logits"
    if len(found) == 1:
        return next(iter(found))
    raise ConfigurationError(
        f"The network gives {', '.join(found)}, of which none is the prediction. Return one tensor, or name one `logits`."
    )


def _ends_in_probabilities(network: Any) -> bool:
    """Whether the last layer that a network has is a softmax or a sigmoid."""
    if framework_of(network) == "torch":
        *_, last = network.modules()
        return type(last).__name__.lower() in _PROBABLE
    layers = getattr(network, "layers", None) or [None]
    named = getattr(getattr(layers[-1], "activation", None), "__name__", type(layers[-1]).__name__)
    return str(named).lower() in _PROBABLE
