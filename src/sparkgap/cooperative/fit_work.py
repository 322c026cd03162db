"""The training loop of `gap.fit`, in each rank: epochs, validation, checkpoints, early stopping."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparkgap._errors import DataError
from sparkgap.cooperative.fit_plan import FitPlan
from sparkgap.cooperative.random_states import rng_state, set_rng_state
from sparkgap.cooperative.strategies.base import Run
from sparkgap.cooperative.strategies.group import Group
from sparkgap.cooperative.telling import within
from sparkgap.cooperative.trainables import trainable_of
from sparkgap.cooperative.trainables.base import Trainable
from sparkgap.cooperative.worker import Worker
from sparkgap.monitor.reporting import report

REPORT_SECONDS = 0.1
"""The loss is reported so often at most."""


@dataclass(frozen=True)
class FitWork:
    """The function that `gap.fit` gives to the gang.

    Args:
        plan: what to do.
    """

    plan: FitPlan
    has_checkpoints: bool

    def __call__(self, worker: Worker) -> dict[str, Any] | None:
        """Train; rank 0 returns the model and how it went."""
        worker.epochs = self.plan.epochs
        seed_all(self.plan.seed)
        spec = self.plan.spec
        trainable = trainable_of(spec.open(), **{**spec.options, "device": worker.device})
        group = Group.of() if worker.world > 1 else Group.alone()
        fitting = Fitting(self.plan, worker, trainable, self.plan.strategy.begin(trainable, group), group)
        if self.has_checkpoints:
            fitting.restore()
        fitting.train(keep=self.has_checkpoints)
        return fitting.result() if worker.is_first else None


@dataclass
class Progress:
    """How far a training is, as it lies in a checkpoint."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    best_value: float = math.inf
    loss_sum: float = 0.0
    loss_rows: int = 0
    over: bool = False


class Fitting:
    """One rank that trains.

    Args:
        plan: what to do.
        worker: its place and its data.
        trainable: the model.
        run: the strategy at work.
        group: the ranks.
    """

    def __init__(self, plan: FitPlan, worker: Worker, trainable: Trainable, run: Run, group: Group) -> None:
        self._plan, self._worker, self._trainable, self._run, self._group = plan, worker, trainable, run, group
        self._progress = Progress()
        self._best: tuple[list[np.ndarray], list[np.ndarray]] | None = None
        self._told = 0.0

    def train(self, *, keep: bool) -> None:
        """Go over the data until the last epoch, or until it gets no better.

        Args:
            keep: whether to keep checkpoints.
        """
        while self._worker.epoch < self._plan.epochs and not self._progress.over:
            began, epoch = time.perf_counter(), self._worker.epoch
            self._epoch(keep=keep)
            self._run.finish()
            self._close_epoch(epoch, time.perf_counter() - began)
            if keep:
                self._save()

    def _epoch(self, *, keep: bool) -> None:
        plan, progress = self._plan, self._progress
        steps = self._worker.steps_of_epoch(
            plan.batch_size, columns=plan.columns, shuffle=plan.shuffle, seed=plan.seed, last=plan.last
        )
        for block, total in steps:
            rows = len(next(iter(block.values())))
            loss = self._run.step(block, rows, total)
            progress.loss_sum += loss * rows  # of this part, or of the whole batch: the mean over ranks is right for both
            progress.loss_rows += rows
            self._tell(loss)
            if keep and plan.checkpoint_every and self._worker.steps % plan.checkpoint_every == 0:
                self._run.finish()
                self._save()

    def _tell(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DataError(
                f"The loss is {loss} in step {self._worker.steps} (epoch {self._worker.epoch}). Lower the learning rate, set "
                "clip=, or look for rows that are not finite."
            )
        now = time.monotonic()
        if now - self._told >= REPORT_SECONDS:
            self._told = now
            report(self._worker.steps, loss=loss)

    def _close_epoch(self, epoch: int, seconds: float) -> None:
        """Look at the validation data, and whether this was the best epoch; the same on all ranks."""
        progress = self._progress
        loss, rows = self._losses()
        progress.loss_sum, progress.loss_rows = 0.0, 0
        figures = {"epoch": float(epoch), "loss": loss / rows if rows else math.nan}
        with within("validate"):
            figures |= {f"val_{name}": value for name, value in self._validate().items()}
        figures |= {"seconds": seconds, "rows_per_second": rows / seconds}
        (figures,) = self._worker.gather(figures)[:1]  # the clocks of rank 0, on all ranks
        progress.history.append(figures)
        value = figures.get("val_loss", figures["loss"])
        if value < progress.best_value:
            progress.best, progress.best_value = epoch, value
            self._best = self._weights()
        if self._worker.is_first:
            told = {k: v for k, v in figures.items() if k not in ("epoch", "loss", "rows_per_second")}
            report(self._worker.steps, epoch_loss=figures["loss"], **told)  # curves of steps have names of their own
        progress.over = self._is_enough(epoch, figures)

    def _is_enough(self, epoch: int, figures: Mapping[str, float]) -> bool:
        plan, progress = self._plan, self._progress
        late = plan.patience is not None and epoch - progress.best >= plan.patience
        asked = plan.watch is not None and self._worker.is_first and plan.watch(dict(figures)) is True
        return late or (plan.watch is not None and bool(self._worker.gather(asked)[0]))

    def _losses(self) -> tuple[float, int]:
        """Return the sum of the losses of this epoch and its rows so far, over all ranks."""
        sums = np.array([self._progress.loss_sum, self._progress.loss_rows], "f8")
        self._group.all_reduce_sum_(sums)
        return float(sums[0]), int(sums[1])

    def _validate(self) -> dict[str, float]:
        """Return the means of loss and metrics over the validation rows, each of which one rank looks at."""
        data = self._plan.validation
        if data is None:
            return {}
        sums: dict[str, float] = {}
        seen = 0
        with data.to_numpy(
            self._plan.batch_size, columns=self._plan.columns, shuffle=None, rank=self._worker.rank, world=self._worker.world
        ) as feed:
            for block in feed:
                rows = len(next(iter(block.values())))
                for name, value in (self._trainable.evaluate(block) if rows else {}).items():
                    sums[name] = sums.get(name, 0.0) + value * rows
                seen += rows
        names = sorted({name for said in self._worker.gather(sorted(sums)) for name in said})
        together = np.array([*(sums.get(name, 0.0) for name in names), float(seen)], "f8")
        self._group.all_reduce_sum_(together)
        return {name: float(total / together[-1]) for name, total in zip(names, together[:-1], strict=True)}

    def result(self) -> dict[str, Any]:
        """Return the model with the weights of its best epoch, and how it went."""
        if self._best is not None:
            self._trainable.load_parameters(self._best[0])
            self._trainable.load_buffers(self._best[1])
        return {"model": self._trainable.model(), "history": self._progress.history, "best": self._progress.best}

    def _weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        trainable = self._trainable
        return [p.copy() for p in trainable.parameters()], [b.copy() for b in trainable.buffers()]

    # checkpoints

    def _save(self) -> None:
        parameters, buffers = self._weights()
        loss, rows = self._losses()
        state = {
            "parameters": parameters, "buffers": buffers, "trainable": self._trainable.state(), "run": self._run.state(),
            "best": None if self._best is None else [list(part) for part in self._best],
            "progress": vars(self._progress) | {"loss_sum": loss, "loss_rows": rows}, "random": rng_state(),
        }  # fmt: skip
        self._worker.save(state, epoch=self._worker.epoch)

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        state = self._worker.restore()
        if state is None:
            return
        self._trainable.load_parameters(state["parameters"])
        self._trainable.load_buffers(state["buffers"])
        self._trainable.load_state(state["trainable"])
        self._run.load_state(state["run"])
        if "random" in state:  # not in checkpoints of earlier versions
            set_rng_state(state["random"])
        self._progress = Progress(**state["progress"])
        if not self._worker.is_first:  # what all have seen so far is counted by one of them
            self._progress.loss_sum, self._progress.loss_rows = 0.0, 0
        best = state["best"]
        self._best = None if best is None else (list(best[0]), list(best[1]))


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and the frameworks that are there, the same on all ranks."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(seed)
