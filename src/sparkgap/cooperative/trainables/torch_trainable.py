"""PyTorch modules as trainables. In the process of a rank."""
# ruff: noqa: D102 - methods are documented at the seam, base.py

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.cooperative.trainables import _torch_losses as losses
from sparkgap.cooperative.trainables.base import Batch, Trainable, check_arrays
from sparkgap.cooperative.trainables.columns import Columns, class_numbers
from sparkgap.cooperative.trainables.metrics import measure
from sparkgap.cooperative.trainables.recipe import Recipe, name_of
from sparkgap.models._torch_predictor import device_of

_MIXED = {"bf16": "bfloat16", "16": "float16"}


class TorchTrainable(Trainable):
    """A `torch.nn.Module`, trained in place.

    A strategy that has the framework average gradients calls `loss_of`, `backward` and `update`, between them whatever it
    needs; ``wrap`` puts a module such as ``DistributedDataParallel`` in the place of the one that is called.

    Args:
        module: on any device; it is moved.
        recipe: how it is trained. A named loss casts labels by itself; a function gets integers as int64 and floats in the
            dtype of the module.

    Attributes:
        module: the one that was given.
        optimizer: of its parameters that have ``requires_grad``.

    Raises:
        ConfigurationError: the recipe does not fit the module.
    """

    framework: ClassVar[str] = "torch"

    def __init__(self, module: Any, recipe: Recipe) -> None:
        torch = need("torch", extra="torch", why="to train PyTorch models")
        recipe.needs("torch")
        losses.check_parameters(torch, module)
        self._torch, self._recipe = torch, recipe
        self._device = device_of(torch, recipe.device)
        self.module = self._called = module.to(self._device)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self._columns = Columns.of(recipe.inputs, recipe.label, *_tensors(module))
        self._loss: Any = losses.loss_function(torch, recipe.loss) if isinstance(recipe.loss, str) else recipe.loss
        self.optimizer = losses.make_optimizer(torch, recipe, self._trained)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._steps = 0
        self._scaler: Any = None
        if recipe.precision == "16" and self._device.type == "cuda":
            self._scaler = torch.amp.GradScaler("cuda")

    def wrap(self, module: Any) -> None:
        """Put a module in the place of the one that `loss_of` calls."""
        self._called = module

    def loss_of(self, batch: Batch) -> Any:
        """Return the mean loss over the rows of a batch, as a tensor with its graph.

        Raises:
            DataError: the batch has no rows, or lacks a column.
        """
        self._called.train()
        return self._forward(self._called, batch)[0]

    def backward(self, loss: Any) -> None:
        """Add the gradients of a loss to those of the parameters."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def update(self) -> None:
        """Take one step of the optimizer with the gradients that the parameters have."""
        self._set_rates()
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if self._recipe.clip is not None:
            self._torch.nn.utils.clip_grad_norm_(self._trained, self._recipe.clip)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self._steps += 1

    def step(self, batch: Batch) -> float:
        """Take one step of training alone. Parameters that the batch does not reach stay as they are."""
        self.module.zero_grad(set_to_none=True)
        loss = self.loss_of(batch)
        self.backward(loss)
        self.update()
        return float(loss.detach())

    def parameters(self) -> list[np.ndarray]:
        return [_array(p) for p in self._trained]

    def load_parameters(self, values: Sequence[np.ndarray]) -> None:
        self._load(values, self._trained, "parameters")

    def buffers(self) -> list[np.ndarray]:
        return [_array(b) for b in self.module.buffers()]

    def load_buffers(self, values: Sequence[np.ndarray]) -> None:
        self._load(values, list(self.module.buffers()), "buffers")

    def gradients(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        self.module.zero_grad(set_to_none=True)  # so each call has tensors of its own
        loss = self.loss_of(batch)
        self.backward(loss)
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        return float(loss.detach()), [self._gradient(p, scale) for p in self._trained]

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        check_arrays(gradients, [tuple(p.shape) for p in self._trained], "gradients")
        scale = 1.0
        if self._scaler is not None:
            self._scaler.scale(self._torch.zeros((), device=self._device))  # it makes its tensors at first use
            scale = self._scaler.get_scale()  # a power of two: what `gradients` divided by it comes back exactly
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            tensor = self._torch.from_numpy(gradient).to(self._device, parameter.dtype)
            parameter.grad = tensor if scale == 1.0 else tensor * scale
        self.update()

    def evaluate(self, batch: Batch) -> dict[str, float]:
        training = [m for m in self.module.modules() if m.training]
        self.module.eval()
        try:
            with self._torch.no_grad():
                loss, prediction, label = self._forward(self.module, batch)
        finally:
            for module in training:
                module.training = True
        return {"loss": float(loss), **{name_of(m): self._metric(m, prediction, label) for m in self._recipe.metrics}}

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "rates": list(self._rates),
            "steps": self._steps,
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self._rates, self._steps = [float(r) for r in state["rates"]], int(state["steps"])
        if self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def model(self) -> Any:
        return self.module

    @property
    def learning_rate(self) -> float:
        if self._recipe.schedule is None:
            return float(self.optimizer.param_groups[0]["lr"])
        return self._rates[0] * self._recipe.factor(self._steps)

    def set_learning_rate(self, value: float) -> None:
        """Set that of the first group of parameters; those of others keep their ratio to it."""
        first = self._rates[0]
        self._rates = [value if r == first else value * (r / first) if first else r for r in self._rates]
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            _set_rate(group, rate)

    def _set_rates(self) -> None:
        if self._recipe.schedule is not None:
            factor = self._recipe.factor(self._steps)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                _set_rate(group, rate * factor)

    def _forward(self, module: Any, batch: Batch) -> tuple[Any, Any, Any]:
        positional, named, label = self._columns.read(batch)
        if self._recipe.loss == "cross_entropy" and (label.dtype.kind != "f" or label.ndim < 2 or label.shape[1] == 1):
            label = class_numbers(label)
        torch, mixed = self._torch, _MIXED.get(self._recipe.precision)
        target = self._tensor(label)
        if not target.is_floating_point() and not isinstance(self._recipe.loss, str):
            target = target.long()
        with torch.autocast(self._device.type, getattr(torch, mixed or "bfloat16"), enabled=mixed is not None):
            output = module(*map(self._tensor, positional), **{n: self._tensor(a) for n, a in named.items()})
            if isinstance(self._recipe.loss, str):
                output = losses.prediction_of(torch, output)
                output = output.float() if mixed else output
            return losses.mean_loss(torch, self._loss(output, target)), output, target

    def _tensor(self, array: np.ndarray) -> Any:
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        tensor = self._torch.from_numpy(array)
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def _metric(self, metric: Any, prediction: Any, label: Any) -> float:
        if callable(metric):
            return float(metric(prediction, label))
        if not isinstance(prediction, self._torch.Tensor):
            prediction = losses.prediction_of(self._torch, prediction)
        return measure(metric, _array(prediction), _array(label), axis=1, threshold=_threshold(self._recipe.loss))

    def _gradient(self, parameter: Any, scale: float) -> np.ndarray:
        if parameter.grad is None:
            return np.zeros(tuple(parameter.shape), _array(parameter).dtype)
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        return _array(gradient if scale == 1.0 else gradient / scale)

    def _load(self, values: Sequence[np.ndarray], tensors: Sequence[Any], what: str) -> None:
        check_arrays(values, [tuple(t.shape) for t in tensors], what)
        with self._torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(self._torch.from_numpy(np.asarray(value)))


def _array(tensor: Any) -> np.ndarray:
    """Return a view of a tensor, or a copy where NumPy has no such type, device or order."""
    tensor = tensor.detach()
    found: np.ndarray = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).cpu().contiguous().numpy()
    return found


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if hasattr(group["lr"], "fill_"):  # a tensor, for optimizers that run as one graph on a device
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _threshold(loss: Any) -> float | None:
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return 0.0 if name in ("binary_cross_entropy", "BCEWithLogitsLoss", "binary_cross_entropy_with_logits") else None


def _tensors(module: Any) -> tuple[list[str] | None, int | None]:
    """Return the parameters that forward must get, and how many it can get; None where nobody knows."""
    try:
        taken = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters.values()
    except (TypeError, ValueError):  # scripts tell nothing
        return None, None
    if any(p.kind is p.VAR_POSITIONAL for p in taken):
        return None, None
    if not taken:
        raise ConfigurationError(f"{type(module).__name__}.forward takes no input, so nothing can be learned from one.")
    return [p.name for p in taken if p.default is p.empty and p.kind is not p.VAR_KEYWORD], len(taken)
