"""What tasks and ranks run to train a network: the loop of `gap.fit`. Needs no Spark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap.cooperative.fit_plan import FitPlan
from sparkgap.cooperative.fit_work import FitWork
from sparkgap.cooperative.rank import Place, RankPlan
from sparkgap.cooperative.worker import Worker
from sparkgap.shards.dataset import open_shards

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards

_HERE = "127.0.0.1"
_SECONDS = 600.0


class Alone(Worker):
    """A worker that has no peers, in a task like any other: no gang has to be begun.

    Args:
        data: what it trains on.
    """

    def __init__(self, data: Shards) -> None:
        super().__init__(Place(0, 1, 0, 1, 0, 1, _HERE, _HERE), RankPlan(1, _HERE, _SECONDS, _SECONDS, None), data, None)

    def gather(self, value: Any) -> list[Any]:
        """Return what the only rank has said."""
        return [value]

    def barrier(self) -> None:
        """Wait for nobody."""


def as_task(plan: FitPlan, rows: Shards | Path, held: Shards | Path | None = None) -> dict[str, Any] | None:
    """Train in one task, on shards that all tasks see or on a folder that the node has."""
    return _trained(plan, Alone(_opened(rows)), held)


def as_rank(plan: FitPlan, worker: Worker, rows: Shards | Path, held: Shards | Path | None = None) -> dict[str, Any] | None:
    """Train as one rank of several, likewise."""
    worker.data = _opened(rows)
    return _trained(plan, worker, held)


def _trained(plan: FitPlan, worker: Worker, held: Shards | Path | None) -> dict[str, Any] | None:
    validation = None if held is None else _opened(held)
    return FitWork(replace(plan, validation=validation), has_checkpoints=False)(worker)


def _opened(rows: Shards | Path) -> Shards:
    return open_shards(rows) if isinstance(rows, str | Path) else rows
