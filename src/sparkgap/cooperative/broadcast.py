"""`feed="broadcast"`: the rows of a small DataFrame, collected once, and put on each node as files that ranks map into memory.

They are shards, in a folder whose name their content gives: in the order of the DataFrame's partitions, as `write_shards`
writes them, so each batch is the same as with shards of the same rows. Equal rows are placed once a session.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkgap import _folders, _spark
from sparkgap._errors import DataError
from sparkgap.models import bundle
from sparkgap.shards.conform import Field
from sparkgap.shards.dataset import Shards
from sparkgap.shards.folder import Folder
from sparkgap.shards.shard_writer import ShardWriter, WritePlan, Written
from sparkgap.shards.write import make_index

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SCHEMA = "partition int, number int, rows binary"
SHARD_BYTES = 64 << 20
_MARK = "sparkgap-too-large-to-collect"
_TOO_LARGE = (_MARK, "spark.driver.maxResultSize")


class TooLarge(DataError):
    """The DataFrame has more bytes than may be collected."""


def collected(df: DataFrame, fields: tuple[Field, ...], limit: int) -> Path:
    """Collect a DataFrame, and write its rows as shards into the cache of this machine.

    Args:
        df: the rows.
        fields: its columns.
        limit: bytes, above which it is given up; a partition that has more ends the job at once.

    Returns:
        The folder. It stays for two weeks after it was last used, and must not be changed.

    Raises:
        TooLarge: there are more bytes.
        DataError: a row has a null where none may be.
    """
    given = _spark.columns(df, tuple(one.name for one in fields))
    try:
        found = given.mapInArrow(partial(sent, limit), SCHEMA).toArrow()
    except Exception as error:  # of many classes, by session and version
        if any(mark in str(error) for mark in _TOO_LARGE):
            raise TooLarge(f"The DataFrame has more than {limit:,} bytes.") from error
        raise
    if (size := found.nbytes) > limit:
        raise TooLarge(f"The DataFrame has {size:,} bytes, which are more than {limit:,}.")
    return _kept(found, fields)


def sent(limit: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Give the rows of a partition as bytes. Runs in a Spark task.

    Raises:
        TooLarge: it has more bytes than the limit.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    partition, total = 0 if context is None else context.partitionId(), 0
    for number, batch in enumerate(batches):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        body = sink.getvalue()
        total += body.size
        if total > limit:
            raise TooLarge(_MARK)
        columns = [
            pa.array([partition], pa.int32()),
            pa.array([number], pa.int32()),
            pa.array([body.to_pybytes()], pa.binary()),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=["partition", "number", "rows"])


def _kept(found: pa.Table, fields: tuple[Field, ...]) -> Path:
    cache = _folders.cache_folder() / "rows"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    bundle.prune(cache)
    work = Path(tempfile.mkdtemp(prefix="collecting-", dir=cache))
    try:
        shards = _written(found.sort_by([("partition", "ascending"), ("number", "ascending")]), fields, work)
        target = cache / shards.digest.replace(":", "-")
        if not target.exists():
            for file in [*work.rglob("*"), work]:
                os.utime(file, (0, 0))  # its name in Spark is made of these, too: the same rows are sent once
            try:
                os.replace(work, target)
            except OSError:  # another process was first
                if not target.exists():
                    raise
        os.utime(target)  # in use: keep it from being pruned
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _written(found: pa.Table, fields: tuple[Field, ...], work: Path) -> Shards:
    folder = Folder.of(work, None)
    plan = WritePlan(folder, f"data-{uuid.uuid4().hex}", fields, SHARD_BYTES)
    folder.create(plan.data)
    written: list[Written] = []
    partitions, bodies = found["partition"].to_pylist(), found["rows"]
    writer, at = None, None
    for partition, body in zip(partitions, bodies, strict=True):
        if writer is None or partition != at:
            written += writer.finish() if writer is not None else []
            writer, at = ShardWriter(plan, partition), partition
        (batch,) = pa.ipc.open_stream(body.as_buffer())
        writer.add(batch)
    written += writer.finish() if writer is not None else []
    index = make_index(fields, written, 0, None)
    folder.write_index(index)
    return Shards(folder, index)
