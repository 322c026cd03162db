"""Shards of this process, mapped into memory: opened at first use, a bounded number at a time."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.shards.format import Index, Shard, checksum

_CHUNK = 4 << 20
_LEAST = 16


def verify(file: Path, shard: Shard, name: str) -> None:
    """Read a shard and compare its size and checksum with those of the index.

    Raises:
        DataError: they differ, or it cannot be read; names it.
    """
    found, size = "", 0
    try:
        with open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                found, size = checksum(chunk, found), size + len(chunk)
    except OSError as error:
        raise unreadable(name, error) from error
    if size != shard.bytes:
        raise truncated(name, size, shard)
    if size and found != shard.checksum:
        raise damaged(name, found, shard)


def truncated(name: str, size: int, shard: Shard) -> DataError:
    """Return the error for a shard of another size."""
    return DataError(
        f"The shard {name} is truncated or changed: it has {size} bytes, and its index says {shard.bytes}. {_AGAIN}"
    )


def damaged(name: str, found: str, shard: Shard) -> DataError:
    """Return the error for a shard of another checksum."""
    return DataError(f"The shard {name} is damaged: its checksum is {found}, and its index says {shard.checksum}. {_AGAIN}")


def unreadable(name: str, error: OSError) -> DataError:
    """Return the error for a shard that cannot be opened."""
    return DataError(f"The shard {name} cannot be read: {error.strerror or error}. {_AGAIN}")


_AGAIN = "Write the shards again, or copy the file from where it is whole."


class OpenShard:
    """One shard, mapped.

    Args:
        file: where it lies, on this machine.
        shard: what the index says of it.
        name: what a user would call it.

    Raises:
        DataError: it is not there, is truncated, or is no Arrow file.
    """

    def __init__(self, file: Path, shard: Shard, name: str) -> None:
        try:
            with open(file, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != shard.bytes:
                    raise truncated(name, size, shard)
                memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unreadable(name, error) from error
        try:
            reader = pa.ipc.open_file(pa.py_buffer(memory))
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pa.ArrowException as error:
            raise DataError(f"The shard {name} is damaged: {error}. {_AGAIN}") from error
        self.starts = np.cumsum([0, *(b.num_rows for b in self.batches)])
        if self.starts[-1] != shard.rows:
            raise DataError(f"The shard {name} has {self.starts[-1]} rows, and its index says {shard.rows}. {_AGAIN}")
        self.arrays: dict[tuple[int, int], np.ndarray] = {}

    @cached_property
    def one(self) -> bool:
        """Whether all of it is one record batch."""
        return len(self.batches) == 1


class Maps:
    """The open shards of a data set in this process. Thread-safe.

    Args:
        index: of the data set.
        locate: makes a shard a file of this machine, and opens it.
    """

    def __init__(self, index: Index, locate: Callable[[Shard], OpenShard]) -> None:
        self.starts = np.cumsum([0, *(shard.rows for shard in index.shards)])
        self._index = index
        self._locate = locate
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._most = max(_LEAST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)  # a mapping holds a descriptor

    def shard(self, number: int) -> OpenShard:
        """Return a shard, opened; the one that was used longest ago is closed where too many are."""
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        opened = self._locate(self._index.shards[number])  # may fetch it: not under the lock
        with self._lock:
            opened = self._open.setdefault(number, opened)
            while len(self._open) > self._most:
                self._open.popitem(last=False)  # unmapped when the last array over it is gone
            return opened
