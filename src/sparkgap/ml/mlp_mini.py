"""Trains a perceptron on mini-batches, with an optimizer of torch, in float32. Runs in a task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import DataError
from sparkgap.ml.mlp_engine import NONE_LEFT, Best, beginning, checked
from sparkgap.ml.mlp_loss import Loss, tensor
from sparkgap.ml.mlp_net import parts
from sparkgap.ml.mlp_peers import Peers
from sparkgap.ml.mlp_rows import FEATURES, HELD, LABEL, blocks, split
from sparkgap.ml.mlp_setting import Setting, Trained
from sparkgap.monitor.reporting import report

if TYPE_CHECKING:
    import torch

    from sparkgap.shards.dataset import Shards

MOMENTUM = 0.9
"""Of ``solver="sgd"``."""


def train_in_batches(setting: Setting, shards: Shards, peers: Peers) -> Trained | None:
    """Train a net on mini-batches; see `sparkgap.ml.mlp_engine.trained`.

    All ranks see the same global batches, of which each computes its part, and take the same steps.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed + peers.rank)  # of dropout: ranks leave out different activations
        return _Mini(setting, shards, peers).run()


class _Mini:
    def __init__(self, setting: Setting, shards: Shards, peers: Peers) -> None:
        import torch

        self._setting, self._shards, self._peers = setting, shards, peers
        self._loss = Loss(setting)
        self._flat = torch.from_numpy(beginning(setting).astype(np.float32))
        self._parts = [
            (matrix.requires_grad_(), bias.requires_grad_()) for matrix, bias in parts(self._flat, setting.layers)
        ]  # fmt: skip
        self._tensors = [one for pair in self._parts for one in pair]
        train, held = blocks(
            shards, setting.block_rows, held_below=setting.held_below, rank=peers.rank, world=peers.world
        )  # fmt: skip
        self._train, self._held = ([self._loss.targets(rows) for rows in part] for part in (train, held))

    def run(self) -> Trained | None:
        optimizer = _optimizer(self._setting, self._parts)
        history, held = [self._mean(self._train)], []
        if math.isnan(history[0]):
            raise DataError(NONE_LEFT)
        best = Best(self._setting.patience, self._setting.tol)
        for epoch in range(self._setting.max_iter):
            history.append(checked(self._epoch(optimizer, epoch)))
            report(epoch + 1, loss=history[-1])
            loss = self._mean(self._held) if self._setting.held_below else math.nan
            held += [] if math.isnan(loss) else [loss]
            if best.add(history[-1] if math.isnan(loss) else loss, self._weights()):
                break
        kept = self._weights() if best.weights is None or not held else best.weights
        return Trained(kept, tuple(history), tuple(held), len(history) - 1) if self._peers.rank == 0 else None

    def _weights(self) -> np.ndarray:
        return np.array(self._flat.detach().numpy(), np.float64)

    def _epoch(self, optimizer: torch.optim.Optimizer, epoch: int) -> float:
        """Take a step for each batch, and return the mean loss."""
        total, seen = 0.0, 0.0
        columns = [name for name in (FEATURES, LABEL, HELD) if name in self._shards.names]
        with self._shards.to_numpy(
            self._setting.batch, columns=columns, seed=self._setting.seed, epoch=epoch, rank=self._peers.rank,
            world=self._peers.world,
        ) as feed:  # fmt: skip
            for block in feed:
                loss, rows = self._step(optimizer, block)
                total += loss
                seen += rows
        return total / seen

    def _step(self, optimizer: torch.optim.Optimizer, block: Any) -> tuple[float, float]:
        """Take one step; loss and rows are those of all ranks."""
        import torch

        rows, _ = split(block, self._setting.held_below)
        optimizer.zero_grad(set_to_none=False)
        loss = 0.0
        if len(rows.labels):
            features, labels = self._loss.targets(rows)
            summed = self._loss.of(self._parts, features.to(torch.float32), labels, training=True)
            summed.backward()
            loss = float(summed.detach())
        count = float(len(rows.labels))
        if self._peers.world > 1:
            loss, count = self._added(loss, count)
        if not count:
            return 0.0, 0.0  # a batch of which all rows are held out
        for one in self._tensors:
            if one.grad is not None:
                one.grad /= count
        optimizer.step()
        return loss, count

    def _added(self, loss: float, count: float) -> tuple[float, float]:
        """Add up gradients, losses and rows of all ranks."""
        grads = [np.zeros(one.numel(), np.float32) if one.grad is None else one.grad.numpy().ravel() for one in self._tensors]
        summed = self._peers.add(np.concatenate([*grads, np.array([loss, count], np.float32)]))
        at = 0
        for one in self._tensors:
            piece = tensor(summed[at : at + one.numel()]).reshape(one.shape)
            one.grad = piece.clone()
            at += one.numel()
        return float(summed[-2]), float(summed[-1])

    def _mean(self, held: list[Any]) -> float:
        """Return the mean loss on some rows of all ranks; NaN where there are none."""
        loss, count = self._peers.add(self._loss.sums(self._weights(), held, slope=False))
        return float(loss / count) if count else math.nan


def _optimizer(setting: Setting, layers: list[Any]) -> torch.optim.Optimizer:
    import torch

    groups = [
        {"params": [matrix for matrix, _ in layers], "weight_decay": setting.weight_decay},
        {"params": [bias for _, bias in layers], "weight_decay": 0.0},
    ]
    if setting.solver == "sgd":
        return torch.optim.SGD(groups, lr=setting.step_size, momentum=MOMENTUM)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[setting.solver](groups, lr=setting.step_size)
