"""What `gap.fit` does in every rank, as values; and what it gives back."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkgap.models.model import Model

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.base import Strategy
    from sparkgap.shards.batches import Last
    from sparkgap.shards.dataset import Shards
    from sparkgap.shards.order import Shuffle


@dataclass(frozen=True)
class Fitted(Model):
    """A trained model: all of `Model`, and how it came about.

    Args:
        trained: the model in its own framework, on the CPU.
        history: a dict an epoch: ``epoch``, ``loss``, ``val_loss``, the metrics, ``seconds``, ``rows_per_second``.
        best: number of the epoch whose weights these are.
        attempts: how often the gang was begun.
    """

    trained: Any = field(default=None, repr=False, compare=False)
    history: tuple[Mapping[str, float], ...] = ()
    best: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class ModelSpec:
    """The model with its loss and optimizer.

    Args:
        pickled: the model, or a function that makes it, by cloudpickle: what it needs in the environment comes first.
        make: whether it is such a function.
        environment: variables that must be set before the model is unpickled.
        options: the other arguments of `trainables.trainable_of`.
    """

    pickled: bytes
    make: bool
    environment: Mapping[str, str]
    options: Mapping[str, Any]

    def open(self) -> Any:
        """Return the model. In a rank."""
        os.environ.update(self.environment)
        found = pickle.loads(self.pickled)
        return found() if self.make else found


@dataclass(frozen=True)
class FitPlan:
    """How to go over the data.

    Args:
        spec: what is trained.
        strategy: how ranks work together.
        batch_size: rows of a batch over all ranks.
        epochs: how often all rows are seen.
        columns: to read.
        validation: rows to look at after each epoch; None for none.
        patience: epochs without a better one before it ends; None: never.
        seed: of everything that is drawn.
        shuffle: of the rows.
        last: of a short last batch.
        checkpoint_every: steps between checkpoints within an epoch; None: only after epochs.
        watch: called in rank 0 with each epoch's figures; True from it ends the training.
    """

    spec: ModelSpec
    strategy: Strategy
    batch_size: int
    epochs: int
    columns: Sequence[str]
    validation: Shards | None
    patience: int | None
    seed: int
    shuffle: Shuffle
    last: Last
    checkpoint_every: int | None = None
    watch: Callable[[Mapping[str, float]], Any] | None = None
