"""Loss and gradient of a perceptron, in torch. Runs in a task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap.ml.mlp_net import parts
from sparkgap.ml.mlp_rows import Rows
from sparkgap.ml.mlp_setting import Setting

if TYPE_CHECKING:
    import torch


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor without a copy; it is not written to."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(np.ascontiguousarray(array))


class Loss:
    """The sum of losses over rows, and its gradient.

    Args:
        setting: layers, task and so on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def sums(self, weights: np.ndarray, blocks: Sequence[tuple[Any, Any]], *, slope: bool) -> np.ndarray:
        """Return the gradient's sum (where `slope`), the loss's sum and the number of rows, as one array of float64.

        Args:
            weights: flat, float64.
            blocks: of features and targets, as `targets` gives them.
            slope: whether the gradient is wanted.
        """
        import torch

        flat = torch.from_numpy(weights).requires_grad_(slope)
        total, loss_sum, rows = np.zeros(len(weights) if slope else 0), 0.0, 0
        for features, labels in blocks:
            with torch.set_grad_enabled(slope):
                loss = self.of(parts(flat, self._setting.layers), features.to(torch.float64), labels, training=False)
            if slope:
                total += torch.autograd.grad(loss, flat)[0].numpy()
            loss_sum += float(loss.detach())
            rows += len(labels)
        return np.concatenate([total, [loss_sum, rows]])

    def targets(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and targets as tensors: labels are class numbers or numbers."""
        classes = self._setting.task == "classification"
        return tensor(rows.features), tensor(rows.labels.astype(np.int64 if classes else np.float64))

    def of(self, layers: Any, x: torch.Tensor, labels: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Return the sum of the losses of some rows, as a tensor that knows its gradient.

        Args:
            layers: matrix and bias of each.
            x: features (rows, n), of the matrices' dtype.
            labels: as `targets` gives them.
            training: whether activations are left out.
        """
        import torch

        functional, setting = torch.nn.functional, self._setting
        hidden = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}[setting.activation]
        for number, (matrix, bias) in enumerate(layers):
            x = torch.addmm(bias, x, matrix)
            if number < len(layers) - 1:
                x = hidden(x)
                if training and setting.dropout:
                    x = functional.dropout(x, setting.dropout)
        if setting.task == "classification":
            return functional.cross_entropy(x, labels, reduction="sum")
        return 0.5 * functional.mse_loss(x[:, 0], labels.to(x.dtype), reduction="sum")
