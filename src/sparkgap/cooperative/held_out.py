"""Validation rows that each node has as files of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparkgap.cooperative.fit_work import FitWork
from sparkgap.cooperative.worker import Worker

HELD = "sparkgap_held_out"
"""Name of the placed value that is a folder of shards to look at after each epoch."""


@dataclass(frozen=True)
class HeldOut:
    """The function of `gap.fit`, with validation rows that are opened where they were placed.

    Args:
        work: the function.
    """

    work: FitWork

    def __call__(self, worker: Worker, sparkgap_held_out: Path) -> dict[str, Any] | None:
        """Train."""
        from sparkgap.shards.dataset import open_shards

        plan = replace(self.work.plan, validation=open_shards(sparkgap_held_out))
        return replace(self.work, plan=plan)(worker)
