"""Shards of remote stores, on this machine's disk: one copy for all processes, bounded, and safe against crashes.

Every operation holds the lock of the shard (`flock`, which the kernel gives back when a process dies). A download is written
under another name, checked against the index, and renamed: a file with the right name is whole. A removed file stays readable
for those who have it mapped, so its bytes are free on the disk only when they are done.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from sparkgap import _folders
from sparkgap._errors import DataError
from sparkgap.shards.folder import Folder
from sparkgap.shards.format import Shard
from sparkgap.shards.maps import OpenShard, verify
from sparkgap.shards.sizes import size_of

DEFAULT_LIMIT = 32 << 30
_CHUNK = 4 << 20
_LOCKS = 256  # so many lock files at most, which are never deleted: deleting one would race with its use


def cache_limit(given: int | str | None) -> int:
    """Return the limit of the cache in bytes: what is given, else SPARKGAP_SHARD_CACHE_BYTES, else 32 GiB.

    Raises:
        ConfigurationError: it is no size.
    """
    if given is not None:
        return size_of("cache_bytes", given)
    text = os.environ.get("SPARKGAP_SHARD_CACHE_BYTES", "")
    return size_of("SPARKGAP_SHARD_CACHE_BYTES", text) if text else DEFAULT_LIMIT


class ShardCache:
    """The cache of this machine, for one folder of shards.

    Args:
        folder: where the shards come from.
        limit: bytes that the cache may have; the newest shard stays even when it is larger.
        home: where the cache lies; default ``shards`` in the cache folder.
    """

    def __init__(self, folder: Folder, limit: int, home: Path | None = None) -> None:
        self._folder = folder
        self._limit = limit
        self._home = home or _folders.cache_folder() / "shards"

    def fetch(self, shard: Shard, *, again: bool = False) -> OpenShard:
        """Return a shard, fetched if it is not here, and mapped.

        Args:
            shard: which.
            again: compare the checksum also if it is here.

        Raises:
            DataError: it cannot be fetched, does not fit on the disk, or is not what its index says.
        """
        name = self._folder.name(shard.file)
        key = blake2b(repr((name, shard)).encode(), digest_size=20).hexdigest()
        file = self._home / f"{key}.arrow"
        with self._telling(name):
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked(key):
                if again and file.exists():
                    verify(file, shard, name)
                if not file.exists():
                    self._download(shard, file, name)
                # The kernel's own time for "now" is some milliseconds old: too coarse to tell the order of uses.
                os.utime(file, ns=(time.time_ns(), time.time_ns()))
                opened = OpenShard(file, shard, name)
            self._evict(file)
        return opened

    def _download(self, shard: Shard, file: Path, name: str) -> None:
        part = file.with_suffix(".part")  # of a download that was cut off: written over
        system, path = self._folder.open()
        try:
            with system.open_input_stream(f"{path}/{shard.file}") as source, open(part, "wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)
            verify(part, shard, name)
            os.rename(part, file)
        finally:
            part.unlink(missing_ok=True)

    def _evict(self, newest: Path) -> None:
        """Delete the shards that were used longest ago, above the limit; and what crashed downloads left."""
        with self._locked("all") as mine:
            if not mine:
                return
            found = []
            for file in self._home.iterdir():
                if file.suffix in (".arrow", ".part") and (status := _status(file)) is not None:
                    found.append((file.suffix == ".arrow", status.st_mtime_ns, status.st_size, file))
            total = sum(size for _, _, size, _ in found)
            for whole, _, size, file in sorted(found):
                if file == newest or (whole and total <= self._limit):
                    continue
                if self._delete(file):
                    total -= size

    def _delete(self, file: Path) -> bool:
        """Delete a file, unless somebody is about to open or writing it."""
        with self._locked(file.stem, wait=False) as mine:
            if mine:
                file.unlink(missing_ok=True)
            return mine

    @contextmanager
    def _locked(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a key; yields False where another one has it and we do not wait."""
        number = int(key[:8], 16) % _LOCKS if key != "all" else "all"
        with open(self._home / f"lock-{number}", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"The shard {name} cannot be fetched into {self._home}: {error}. Check the address and the "
                "space there; SPARKGAP_CACHE sets another folder, cache_bytes= a smaller cache."
            ) from error


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # another process has just deleted it
        return None
