"""Shards made without Spark, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from sparkgap.shards.conform import Field
from sparkgap.shards.dataset import Shards, open_shards
from sparkgap.shards.folder import Folder
from sparkgap.shards.shard_writer import ShardWriter, WritePlan
from sparkgap.shards.write import make_index

DATA = "data-" + "0" * 32


def write(place: str | Path, *partitions: list[pa.RecordBatch], **options: Any) -> Shards:
    """Write partitions, each a list of batches, as the tasks of Spark would."""
    folder = Folder.of(place, options.pop("storage_options", None))
    fields = tuple(Field(f.name, f.type) for f in partitions[0][0].schema)
    plan = WritePlan(folder, DATA, fields, **{"shard_bytes": 1 << 20, **options})
    folder.create(DATA)
    written, skipped = [], 0
    for number, batches in enumerate(partitions):
        writer = ShardWriter(plan, number)
        for batch in batches:
            writer.add(batch)
        written += writer.finish()
        skipped += writer.skipped
    folder.write_index(make_index(fields, written, skipped, None))
    return open_shards(place)


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({n: v if isinstance(v, pa.Array) else pa.array(v) for n, v in columns.items()})


def floats(rows: Any) -> pa.Array:
    return pa.array(rows, pa.list_(pa.field("element", pa.float32())))
