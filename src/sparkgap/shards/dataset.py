"""`gap.open_shards`: a folder of shards as a data set of numbered rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data.storage import Options
from sparkgap.shards import gather
from sparkgap.shards.cache import ShardCache, cache_limit
from sparkgap.shards.folder import Folder
from sparkgap.shards.format import INDEX, Index, Shard
from sparkgap.shards.maps import Maps, OpenShard, verify
from sparkgap.shards.order import BLOCK_ROWS, WINDOW_ROWS, Shuffle
from sparkgap.tensors.spec import Block, TensorSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.shards.batches import Last
    from sparkgap.shards.feeds import NumpyFeed


def open_shards(path: str | Path, *, storage_options: Options | None = None, cache_bytes: int | str | None = None) -> Shards:
    """Open shards that `gap.write_shards` wrote. Reads the index only; starts no Spark.

    Args:
        path: the folder, local or a URI that pyarrow or fsspec can read.
        storage_options: of the fsspec file system.
        cache_bytes: shards of a URI are fetched when they are first read, into a cache on this machine that its processes
            share; this is how many bytes it may have, ``"32g"``, least recently used out first. Default:
            SPARKGAP_SHARD_CACHE_BYTES, else 32 GiB.

    Raises:
        DataError: there are no (finished) shards, or their index is damaged.
    """
    folder = Folder.of(path, storage_options)
    index = folder.read_index()
    if index is None:
        raise DataError(
            f"There are no shards at {folder.origin}: it has no {INDEX}. Check the path; a write that was cut off leaves "
            "none, and has to be made again."
        )
    return Shards(folder, index, cache_limit(cache_bytes))


class Shards:
    """Rows, numbered from 0, of a folder of shards. A value that travels: a process that gets it opens the files by itself.

    Files are mapped into memory, so the processes of a machine share one copy, and what is not read costs nothing.
    Thread-safe.

    Args:
        folder: where they lie.
        index: what is there.
        cache_bytes: limit of the cache, where they are not files of this machine; None for the default.
    """

    def __init__(self, folder: Folder, index: Index, cache_bytes: int | None = None) -> None:
        self._folder = folder
        self._index = index
        self._cache_bytes = cache_bytes
        self._maps = Maps(index, self._opened)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self._folder, self._index, self._cache_bytes)

    def __repr__(self) -> str:
        fields = ", ".join(f"{s.name}: {s.describe() if s.dtype else self.schema.field(s.name).type}" for s in self.columns)
        return f"Shards({self.path!r}, {self.rows} rows in {len(self.index.shards)} shards, {fields})"

    def __len__(self) -> int:
        return self.rows

    @property
    def path(self) -> str:
        """Folder or URI."""
        return self._folder.origin

    @property
    def local(self) -> bool:
        """Whether the shards are files that this machine sees, and not fetched."""
        return self._folder.local

    @property
    def index(self) -> Index:
        """What the index says: files, sizes, checksums, who wrote it."""
        return self._index

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._index.rows

    @property
    def skipped(self) -> int:
        """Rows that were left out because of nulls when this was written."""
        return self._index.skipped

    @property
    def digest(self) -> str:
        """Digest of the content, in its order."""
        return self._index.digest

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns."""
        return self._index.schema

    @property
    def columns(self) -> tuple[TensorSpec, ...]:
        """Dtype and row shape of each column; dtype None for what is no tensor, None in a shape for lengths that differ."""
        return self._index.specs

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.schema.names)

    def verify(self) -> None:
        """Read every shard and compare its size and checksum with the index.

        Raises:
            DataError: a shard is missing, truncated or damaged; names the first.
        """
        for shard in self._index.shards:
            if self._folder.local:
                verify(self._file(shard), shard, self._folder.name(shard.file))
            else:
                self._cache().fetch(shard, again=True)

    def read(self, indices: Any, columns: Sequence[str] | None = None) -> Block:
        """Return rows by their numbers, in that order, as new arrays.

        Args:
            indices: row numbers from 0 on, in any order, also more than once.
            columns: names; default all.

        Returns:
            A column of numbers of one shape as an array (rows, …); of different shapes, text and bytes as an array of
            objects; dates and times as numpy's.

        Raises:
            ConfigurationError: there is no such row or column.
            DataError: a shard is missing or truncated.
        """
        rows = self._checked(indices)
        numbers = self._numbers(columns)
        parts = gather.parts_of(self._maps, rows)
        types = self.schema.types
        return {self.names[n]: gather.column(parts, n, self.columns[n], len(rows), types[n]) for n in numbers}

    def take(self, indices: Any, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows by their numbers, in that order, as an Arrow table. Raises what `read` raises."""
        rows = self._checked(indices)
        numbers = self._numbers(columns)
        parts = gather.parts_of(self._maps, rows)
        arrays = [gather.arrow(parts, n, self.schema.field(n).type) for n in numbers]
        return pa.Table.from_arrays(arrays, schema=pa.schema([self.schema.field(n) for n in numbers]))

    def slice(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Block:
        """Return the rows from `start` to `stop` - 1, cut to those that there are.

        Within one record batch these are views of the mapped file, read-only and without a copy; else as from `read`.
        """
        start, stop = max(0, start), min(stop, self.rows)
        if start >= stop:
            return self.read(np.empty(0, np.int64), columns)
        shard, batch, first, end = self._record_batch(start)
        if stop > end:
            return self._joined(start, stop, end, columns)
        begin = start - first
        found = {}
        for n in self._numbers(columns):
            spec = self.columns[n]
            if gather.is_fixed(spec):
                found[spec.name] = gather.view(shard, batch, n, spec)[begin : begin + stop - start]
            else:
                found[spec.name] = gather.to_numpy(shard.batches[batch].column(n).slice(begin, stop - start), spec)
        return found

    def _joined(self, start: int, stop: int, end: int, columns: Sequence[str] | None) -> Block:
        """Return rows of several record batches, the first of which ends at `end`: stretches are joined, not gathered."""
        if not all(gather.is_fixed(self.columns[n]) for n in self._numbers(columns)):
            return self.read(np.arange(start, stop), columns)
        stretches = []
        while start < stop:
            stretches.append(self.slice(start, min(stop, end), columns))
            start = end
            end = self.record_batch(start)[1] if start < stop else end
        return {name: np.concatenate([stretch[name] for stretch in stretches]) for name in stretches[0]}

    def record_batch(self, row: int) -> tuple[int, int]:
        """Return the first row of the record batch that a row lies in, and the row after its last."""
        return self._record_batch(row)[2:]

    def _record_batch(self, row: int) -> tuple[OpenShard, int, int, int]:
        number = int(np.searchsorted(self._maps.starts, row, side="right")) - 1
        shard, first = self._maps.shard(number), int(self._maps.starts[number])
        batch = int(np.searchsorted(shard.starts, row - first, side="right")) - 1
        return shard, batch, first + int(shard.starts[batch]), first + int(shard.starts[batch + 1])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows as Arrow record batches over the mapped files."""
        for number in range(len(self._index.shards)):
            yield from self._batches(number)

    def to_arrow(self) -> pa.Table:
        """Return all rows as an Arrow table over the mapped files."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def to_df(self, spark: SparkSession | None = None) -> DataFrame:
        """Return all rows as a DataFrame that executors read from the files, a shard a partition. They must see the path."""
        from pyspark.sql import types as T

        spark = spark or _spark.active_session()
        schema = T.StructType([T.StructField(f.name, _spark.spark_type(f.type)) for f in self.schema])
        count = len(self._index.shards)
        numbers = spark.range(0, count, 1, max(1, count))
        return numbers.mapInArrow(functools.partial(_read_shards, self), schema)

    def remove(self) -> None:
        """Delete the index, and then the shards. Files that are not of shards stay."""
        self._folder.delete_file(INDEX)
        self._folder.clean(None)

    def to_numpy(
        self,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        shuffle: Shuffle = "full",
        seed: int = 0,
        epoch: int = 0,
        window_rows: int = WINDOW_ROWS,
        block_rows: int = BLOCK_ROWS,
        rank: int = 0,
        world: int = 1,
        last: Last = "short",
        start: int = 0,
        prefetch: int = 2,
        copy: bool = True,
    ) -> NumpyFeed:
        """Return the batches of one epoch, as dicts of ndarrays, read ahead by a thread.

        Args:
            batch_size: rows of a batch over all workers; a worker gets its part.
            columns: which; default all.
            shuffle: ``"full"``, ``"window"`` (bounded memory) or None: see `Order`, which tells what they cost.
            seed: of the order.
            epoch: its number; each has an order of its own.
            window_rows: rows that ``"window"`` shuffles at a time.
            block_rows: rows that follow each other and that ``"window"`` moves as one before.
            rank: number of this worker.
            world: number of workers. The order does not depend on it.
            last: what becomes of a last batch with fewer rows: ``"short"``, ``"drop"`` or ``"pad"``: see `Batches`. With
                ``"pad"`` batches have one array more, ``_weight`` (float32): 1 for rows that count, 0 for those that fill up.
            start: position in the epoch to go on at, as `NumpyFeed.position` gave it, with any `world`.
            prefetch: how many reads may wait; a read is one batch, or several small ones of 2 MiB together. 0: no thread.
            copy: False: with ``shuffle=None``, batches that lie in one record batch are views of the mapped file: read-only,
                and without a copy.

        Raises:
            ConfigurationError: an option is wrong.
        """
        from sparkgap.shards.feeds import NumpyFeed, Plan

        plan = Plan(batch_size, tuple(columns or self.names), shuffle, seed, window_rows, block_rows, rank, world, last, copy)
        self._numbers(plan.columns)
        return NumpyFeed(self, plan, epoch, start, prefetch)

    def to_torch(self, batch_size: int | None = None, *, map_style: bool = False, **options: Any) -> Any:
        """Return a PyTorch data set.

        Args:
            batch_size: as for `to_numpy`. The data set is an ``IterableDataset`` whose items are batches: dicts of tensors
                (text and bytes stay lists). Use it by itself, or with ``DataLoader(it, batch_size=None, num_workers=2)``:
                workers share the steps, and the order stays as it is. ``it.set_epoch(n)`` chooses the next epoch.
            map_style: a ``Dataset`` of single rows instead, for a ``DataLoader`` with its own sampler and batch size;
                of the options it takes `columns` only.
            options: as for `to_numpy`.

        Raises:
            ConfigurationError: an option is wrong, or a column cannot be a tensor.
            MissingDependencyError: PyTorch is not installed.
        """
        from sparkgap.shards.torch_feed import iterable, rows

        if map_style:
            if batch_size is not None:
                raise ConfigurationError("map_style=True gives single rows: give the batch_size to the DataLoader.")
            return rows(self, **options)
        if batch_size is None:
            raise ConfigurationError("to_torch needs batch_size=, the rows of a batch over all workers, or map_style=True.")
        return iterable(self, batch_size, **options)

    def to_tf(self, batch_size: int, **options: Any) -> Any:
        """Return a ``tf.data.Dataset`` of batches: dicts of tensors. Options as for `to_numpy`."""
        from sparkgap.shards.tf_feed import dataset

        return dataset(self, batch_size, **options)

    def to_jax(self, batch_size: int, *, device: Any = None, **options: Any) -> Any:
        """Return the batches as dicts of JAX arrays, the next one on its way to the device while one is used.

        Args:
            batch_size: as for `to_numpy`.
            device: a device or sharding; None for JAX's default.
            options: as for `to_numpy`.
        """
        from sparkgap.shards.jax_feed import JaxFeed

        return JaxFeed(self.to_numpy(batch_size, **options), device)

    def _batches(self, number: int) -> Iterator[pa.RecordBatch]:
        for batch in self._maps.shard(number).batches:
            yield gather.typed_batch(batch, self.schema)

    def _file(self, shard: Shard) -> Path:
        return Path(self._folder.path) / shard.file

    def _cache(self) -> ShardCache:
        return ShardCache(self._folder, cache_limit(self._cache_bytes))

    def _opened(self, shard: Shard) -> OpenShard:
        if self._folder.local:
            return OpenShard(self._file(shard), shard, self._folder.name(shard.file))
        return self._cache().fetch(shard)

    def _checked(self, indices: Any) -> np.ndarray:
        rows = np.asarray(indices)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ConfigurationError(f"Rows are read by a list or 1-D array of whole numbers; got {rows.dtype} {rows.shape}.")
        rows = rows.astype(np.int64, copy=False)
        if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= self.rows):
            raise ConfigurationError(f"Rows from {rows.min()} to {rows.max()} were asked for, of {self.rows} from 0 on.")
        return rows

    def _numbers(self, columns: Sequence[str] | None) -> list[int]:
        names = list(self.names if columns is None else columns)
        if absent := [name for name in names if name not in self.schema.names]:
            raise ConfigurationError(f"There is no column {absent[0]!r} in {self.path}; there are: {', '.join(self.names)}.")
        return [self.schema.get_field_index(name) for name in names]


def _read_shards(shards: Shards, numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Read the shards of one partition, in the types that Spark takes. Runs in a Spark task."""
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            for found in shards._batches(number):
                yield pa.RecordBatch.from_arrays([_for_spark(c) for c in found.columns], names=list(shards.names))


def _for_spark(array: pa.Array) -> pa.Array:
    kind = _without_sizes(array.type)
    return array if kind == array.type else array.cast(kind)


def _without_sizes(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(_without_sizes(kind.value_type))
    return kind
