"""What tasks and ranks run to train a perceptron. Needs no Spark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap.ml.mlp_engine import trained
from sparkgap.ml.mlp_peers import Gang
from sparkgap.ml.mlp_setting import Setting, Trained

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards


def alone(setting: Setting, rows: Path) -> Trained | None:
    """Train on the shards in a folder that the node has."""
    from sparkgap.shards.dataset import open_shards

    return trained(setting, open_shards(rows))


def alone_over(shards: Shards, setting: Setting) -> Trained | None:
    """Train on shards that all tasks see."""
    return trained(setting, shards)


def as_rank(setting: Setting, worker: Any, rows: Path | None = None) -> Trained | None:
    """Train as one rank of several, on a folder that the node has or on shards that all ranks see."""
    from sparkgap.shards.dataset import open_shards

    return trained(setting, worker.data if rows is None else open_shards(rows), Gang(worker))
