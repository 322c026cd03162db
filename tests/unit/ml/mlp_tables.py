"""Small tables for perceptrons, as shards made without Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from sparkgap.shards.conform import Field
from sparkgap.shards.dataset import Shards, open_shards
from sparkgap.shards.folder import Folder
from sparkgap.shards.shard_writer import ShardWriter, WritePlan
from sparkgap.shards.write import make_index

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 1.0, 1.0, 0.0])


def table(place: Path, features: np.ndarray, labels: np.ndarray, held: np.ndarray | None = None, parts: int = 2) -> Shards:
    """Write rows as shards, in some partitions of some batches."""
    columns = {"features": pa.array(features.tolist(), pa.list_(pa.float64())), "label": pa.array(labels, pa.float64())}
    if held is not None:
        columns["held"] = pa.array(held, pa.float64())
    rows = pa.record_batch(columns)
    folder = Folder.of(place, None)
    fields = tuple(Field(f.name, f.type) for f in rows.schema)
    plan = WritePlan(folder, "data-" + "0" * 32, fields, 1 << 20)
    folder.create(plan.data)
    written = []
    for number, part in enumerate(np.array_split(np.arange(len(labels)), parts)):
        writer = ShardWriter(plan, number)
        if len(part):
            writer.add(rows.slice(part[0], len(part)))
        written += writer.finish()
    folder.write_index(make_index(fields, written, 0, None))
    return open_shards(place)
