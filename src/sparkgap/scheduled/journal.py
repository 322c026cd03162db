"""The journal: outcomes, appended to a file as they come, found again by index and, in a later run, by identity.

    {"format": "sparkgap journal", "version": 1, "function": ..., "created": ..., "salt": ...}
    process 1234 on host-a (padded with spaces to 128 bytes)
    record, record, ...

A record is a head, the item and the payload. The head holds a checksum, started from the file's own salt: a payload that
holds a piece of another journal is not taken for records. The second line says who holds the file; it is written over,
and nothing hangs on it. All of this runs on the driver; memory is 16 bytes an item of this run, 8 bytes a record of
earlier ones, and what is not written yet.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import secrets
import socket
import struct
import tempfile
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkgap._errors import ConfigurationError, DataError

_log = logging.getLogger(__name__)

_FORMAT = "sparkgap journal"
_VERSION = 1
_START = b'{"format": "sparkgap journal", '
_HOLDER = 128
_BUFFER = 1 << 20
_READ = 4096
_MOST = 1 << 30  # a call to the system takes less than 2 GiB

_WINDOW = 1 << 18
_ROOM = 1024

# mark, crc32 of all that follows, length of the item, of the payload; index; identity
_HEAD = struct.Struct("<4sIIQq16s")
_FRONT, _FACTS = struct.Struct("<4sI"), struct.Struct("<IQq16s")  # its two parts
_MARK = b"\xf5gJr"
_NONE = bytes(16)


@dataclass(slots=True)
class Record:
    """One outcome, as it was appended.

    Args:
        index: number of the item in this run.
        identity: 16 bytes that name the item in every run; empty where the journal keeps none.
        item: the pickled item, or nothing.
        payload: the outcome, encoded by the caller.
    """

    index: int
    identity: bytes
    item: bytes
    payload: bytes


class Journal:
    """Outcomes of one run, and those that earlier runs left in the same file. One thread appends, any may read.

    Make one with `temporary` or `open`. The caller calls `flush` at intervals: what is not flushed dies with the process, and
    what is not synced may die with the machine. A machine that loses power may also leave a hole in what was not synced,
    with whole records after it; `open` then says how to cut the file, since it cannot tell this from a file that was damaged.
    """

    def __init__(self, fd: int, name: str, *, named: bool, salt: int, begin: int) -> None:
        self._fd = fd
        self._name = name
        self._named = named
        self._salt = salt
        self._earlier = array("q")  # offsets of the records of earlier runs
        self._offsets = array("q")  # by index: offset in the file, or -1
        self._order = array("q")
        self._known: _Known | None = None
        self._written = begin
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._closed = False

    @classmethod
    def temporary(cls) -> Journal:
        """Make a journal in the folder for temporary files that vanishes with the process; it keeps no identities."""
        fd, path = tempfile.mkstemp(prefix="sparkgap-journal-")
        os.unlink(path)
        return cls(fd, path, named=False, salt=secrets.randbits(32), begin=0)

    @classmethod
    def open(cls, path: str | Path, function: str) -> Journal:
        """Create a journal, or open one to go on with it.

        A torn end, as a crash leaves it, is cut off after the last whole record, with a warning.

        Args:
            path: the file; its folder exists.
            function: qualified name of the function whose outcomes it holds.

        Raises:
            ConfigurationError: the file cannot be opened, is no journal, is another function's, or another process has it.
            DataError: a record is damaged and there are whole ones after it.
        """
        path = Path(path).absolute()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigurationError(
                f"The journal {path} cannot be opened: {error.strerror}. "
                "Give a file in a folder that is there and can be written."
            ) from error
        try:
            _take(fd, path)
            salt, begin = _header(fd, path, function)
            journal = cls(fd, str(path), named=True, salt=salt, begin=begin)
            journal._recover()
        except BaseException:
            os.close(fd)
            raise
        return journal

    def append(self, index: int, identity: bytes, payload: bytes, item: bytes = b"") -> None:
        """Add an outcome; of two for one index, the later one counts. It is written when `flush` is called, or soon.

        Args:
            index: number of the item, from 0.
            identity: 16 bytes; a temporary journal passes over them.
            payload: the outcome.
            item: the pickled item, where it is to be kept.

        Raises:
            DataError: the disk is full, or fails. The outcome is kept in memory; a later call tries again.
        """
        self.append_all([(index, identity, payload, item)])

    def append_all(self, records: Iterable[tuple[int, bytes, bytes, bytes]]) -> None:
        """Add many outcomes: index, identity, payload and item of each; see `append`."""
        with self._lock:
            if self._closed:
                raise DataError(f"The journal {self._name} is closed; nothing can be added to it.")
            for index, identity, payload, item in records:
                if not self._named:
                    identity = _NONE
                elif len(identity) != 16:
                    raise ValueError(f"an identity has 16 bytes, got {identity!r}")
                body = _FACTS.pack(len(item), len(payload), index, identity) + item + payload
                buffer = self._buffer
                self._place(index, self._written + len(buffer))
                buffer += _FRONT.pack(_MARK, zlib.crc32(body, self._salt))
                buffer += body
                if len(buffer) >= _BUFFER:
                    self._drain()

    def flush(self, sync: bool = False) -> None:
        """Write what was appended.

        Args:
            sync: also wait until it is on the disk, so that it survives a loss of power; never for temporary journals.

        Raises:
            DataError: as `append`.
        """
        with self._lock:
            self._drain()
        if sync and self._named:
            with self._syncing:  # without the other lock: outcomes come in while the disk is waited for
                if not self._closed:
                    self._sync()

    def known(self, keep: Callable[[bytes], bool] = lambda payload: True) -> Mapping[bytes, int]:
        """Return the identities that earlier runs finished, with the place of the record of each in the file.

        Args:
            keep: given a payload, whether it counts as finished. Of several records of one identity the last is asked.

        Returns:
            A mapping of 24 bytes an entry, in no useful order.

        Raises:
            DataError: the file changed beneath us.
        """
        identities, kept = bytearray(), bytearray()
        for offset in self._earlier:
            record = self._at(offset, 0)
            identities += record.identity
            kept.append(keep(record.payload))
        self._known = _Known(bytes(identities), self._earlier, bytes(kept))
        return self._known

    def adopt(self, index: int, identity: bytes) -> None:
        """Take an outcome of an earlier run as this run's.

        Args:
            index: number of the item in this run.
            identity: one of those in `known`, as it was last asked for.

        Raises:
            KeyError: no earlier run finished it.
        """
        offset = (self._known if self._known is not None else self.known())[identity]
        with self._lock:
            self._place(index, offset)

    def read(self, index: int) -> Record:
        """Return the outcome of an item of this run, written or not; any thread.

        Raises:
            KeyError: it has none yet.
            DataError: the file is damaged there.
        """
        if not 0 <= index < len(self._offsets) or (offset := self._offsets[index]) < 0:
            raise KeyError(index)
        return self._at(offset, index)

    def read_on(self, index: int) -> list[bytes]:
        """Return the payload of an item of this run and of those after it, as far as they are there and lie close by.

        Raises:
            KeyError: the item has none yet.
            DataError: the file is damaged there.
        """
        first = self.read(index).payload
        if len(first) > _WINDOW:
            return [first]
        found, base = [first], self._offsets[index]
        with self._lock:
            data = b"" if self._closed else os.pread(self._fd, min(_WINDOW, max(0, self._written - base)), base)
        view = memoryview(data)
        while (index := index + 1) in self and (at := self._offsets[index] - base) >= 0:
            size = _length(view[at : at + _HEAD.size])
            if not _is_whole(view, at, size, self._salt):
                break  # it is not all in here; or damaged: then reading it says so
            found.append(data[at + _HEAD.size + _FACTS.unpack_from(view, at + _FRONT.size)[0] : at + size])
        return found

    def order(self) -> Sequence[int]:
        """Return the indices in order of completion: the journal's own list, which grows; not to be changed."""
        return self._order

    def __len__(self) -> int:
        """Return how many items of this run have an outcome."""
        return len(self._order)

    def __contains__(self, index: object) -> bool:
        """Return whether an item of this run has an outcome."""
        return isinstance(index, int) and 0 <= index < len(self._offsets) and self._offsets[index] >= 0

    def seal(self) -> None:
        """Write everything, and let other processes and later runs have the file; it can still be read here.

        Raises:
            DataError: as `append`.
        """
        self.flush(sync=True)
        if self._named:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Write everything, to the disk where the journal has a name, and let go of the file. A second call does nothing.

        Raises:
            DataError: as `append`; the file is closed all the same.
        """
        with self._syncing, self._lock:
            if self._closed:
                return
            try:
                self._drain()
                if self._named:
                    self._sync()
            finally:
                self._closed = True
                os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _place(self, index: int, offset: int) -> None:
        missing = index + 1 - len(self._offsets)
        if missing > 0:
            self._offsets.extend(_absent(max(missing, _ROOM)))
        is_new = self._offsets[index] < 0
        self._offsets[index] = offset
        if is_new:
            self._order.append(index)  # last: who sees it there finds its place

    def _drain(self) -> None:
        """Write the buffer, or nothing of it."""
        if not self._buffer:
            return
        try:
            _write(self._fd, self._buffer, self._written)
        except OSError as error:
            os.ftruncate(self._fd, self._written)
            raise DataError(self._advice("written", error)) from error
        self._written += len(self._buffer)
        self._buffer = bytearray()

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise DataError(self._advice("written to the disk", error)) from error

    def _advice(self, done: str, error: OSError) -> str:
        if not self._named:
            return (
                f"The temporary file {self._name} for outcomes cannot be {done}: {error.strerror}. Free space, or set TMPDIR."
            )
        return (
            f"The journal {self._name} cannot be {done}: {error.strerror}. What was written before is safe: "
            "free space, and run the same again."
        )

    def _at(self, offset: int, index: int) -> Record:
        with self._lock:
            if offset >= self._written:
                at = offset - self._written
                size = _length(self._buffer[at : at + _HEAD.size])
                data = bytes(self._buffer[at : at + size])
            elif self._closed:
                raise DataError(f"The journal {self._name} is closed; open it to read it.")
            else:
                data = os.pread(self._fd, _READ, offset)
                size = _length(data)
                if len(data) < size:
                    data += _pread(self._fd, size - len(data), offset + len(data))
        if not _is_whole(data, 0, size, self._salt):
            raise DataError(f"The journal {self._name} is damaged at byte {offset}: was it changed while this run used it?")
        _, _, item, _, _, identity = _HEAD.unpack_from(data)
        middle = _HEAD.size + item
        return Record(index, identity if self._named else b"", data[_HEAD.size : middle], data[middle:size])

    def _recover(self) -> None:
        """Find the records that are there; cut a torn end off."""
        size = os.fstat(self._fd).st_size
        self._written = _scan(self._fd, self._written, size, self._salt, self._earlier)
        if self._written == size:
            return
        later = _next_whole(self._fd, self._written, size, self._salt)
        if later is not None:
            raise DataError(
                f"The journal {self._name} is damaged at byte {self._written}, after {len(self._earlier)} whole outcomes; "
                f"there are more from byte {later} on. Nothing was changed. Restore the file; or copy it, and then cut what "
                f"follows off, with: truncate -s {self._written} '{self._name}'. The items that are cut off will run again."
            )
        _log.warning(
            "The end of the journal %s was torn by a crash: %d bytes after %d whole outcomes are cut off.",
            self._name, size - self._written, len(self._earlier),
        )  # fmt: skip
        os.ftruncate(self._fd, self._written)


class _Known(Mapping[bytes, int]):
    """Places by identity, in sorted arrays.

    Args:
        identities: 16 bytes each, one after the other.
        offsets: place of each.
        kept: one byte each: whether it counts. The last of equal identities decides.
    """

    def __init__(self, identities: bytes, offsets: array[int], kept: bytes) -> None:
        import numpy as np

        halves = np.frombuffer(identities, ">u8").reshape(-1, 2).astype("u8")
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones stay as they came
        halves = halves[order]
        last = np.ones(len(order), bool)
        last[:-1] = (halves[1:] != halves[:-1]).any(axis=1)
        last &= np.frombuffer(kept, "?")[order]
        self._high, self._low = halves[last, 0].copy(), halves[last, 1].copy()
        self._offsets = np.array(offsets, "q")[order][last]

    def __getitem__(self, identity: bytes) -> int:
        high, low = struct.unpack(">QQ", identity)
        at = int(self._high.searchsorted(self._high.dtype.type(high)))
        while at < len(self._high) and self._high[at] == high:
            if self._low[at] == low:
                return int(self._offsets[at])
            at += 1
        raise KeyError(identity)

    def __iter__(self) -> Iterator[bytes]:
        return (struct.pack(">QQ", int(h), int(w)) for h, w in zip(self._high, self._low, strict=True))

    def __len__(self) -> int:
        return len(self._offsets)


def _absent(count: int) -> array[int]:
    return array("q", (-1,)) * count


def _take(fd: int, path: Path) -> None:
    """Lock the file for this process, for as long as it is open."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lines = os.pread(fd, _READ, 0).split(b"\n")
        holder = lines[1].decode(errors="replace").strip() if len(lines) > 1 else "another process"
        raise ConfigurationError(
            f"The journal {path} is in use by {holder}. Wait for its run to end, or end it, or give another journal=."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"The journal {path} cannot be locked: {error.strerror}. Give a file in a folder whose file system has locks."
        ) from error


def _header(fd: int, path: Path, function: str) -> tuple[int, int]:
    """Check the first lines, or write them; return the salt and where the records begin."""
    line, newline, _ = os.pread(fd, _BUFFER, 0).partition(b"\n")
    is_torn = not newline and (line.startswith(_START) or _START.startswith(line))
    try:
        return _create(fd, path, function) if is_torn else _adopted(fd, path, function, line)
    except OSError as error:
        raise ConfigurationError(f"The journal {path} cannot be written: {error.strerror}. Give another file.") from error


def _adopted(fd: int, path: Path, function: str, line: bytes) -> tuple[int, int]:
    """Check a header that is whole and say in the second line that this process has the file."""
    found = _parsed(line)
    if found is None or found.get("format") != _FORMAT:
        raise ConfigurationError(
            f"{path} is not a journal of sparkgap. Give the name of a journal, or of a file that is not there."
        )
    if found.get("version") != _VERSION:
        raise ConfigurationError(
            f"The journal {path} has version {found.get('version')} of the format; this sparkgap reads version {_VERSION}. "
            "Go on with the sparkgap that wrote it, or give another journal=."
        )
    if found["function"] != function:
        raise ConfigurationError(
            f"The journal {path} holds outcomes of {found['function']}, and this run is of {function}. "
            "Give each function a journal of its own; if the function was renamed, give the old name, or run anew."
        )
    _hold(fd, len(line) + 1)
    return int(found["salt"], 16), len(line) + 1 + _HOLDER + 1


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _create(fd: int, path: Path, function: str) -> tuple[int, int]:
    """Begin a journal, in a file that is empty or whose first line a crash tore."""
    salt = secrets.randbits(32)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = {"format": _FORMAT, "version": _VERSION, "function": function, "created": created, "salt": f"{salt:08x}"}
    line = json.dumps(head).encode() + b"\n"
    os.ftruncate(fd, 0)
    _write(fd, line, 0)
    _hold(fd, len(line))
    os.fsync(fd)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a loss of power could take the file's name
    finally:
        os.close(folder)
    return salt, len(line) + _HOLDER + 1


def _hold(fd: int, offset: int) -> None:
    holder = f"process {os.getpid()} on {socket.gethostname()}".encode()[:_HOLDER]
    _write(fd, holder.ljust(_HOLDER) + b"\n", offset)


def _write(fd: int, data: bytes | bytearray, offset: int) -> None:
    done = 0
    with memoryview(data) as view:  # let go of on failure too: `data` must be able to grow
        while done < len(data):
            done += os.pwrite(fd, view[done : done + _MOST], offset + done)


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read so many bytes, or up to the end."""
    parts = []
    while size > 0 and (part := os.pread(fd, min(size, _MOST), offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _length(data: bytes | bytearray | memoryview) -> int:
    """Length of the record that begins there, in bytes, as its head says; 0 where there is no head."""
    if len(data) < _HEAD.size:
        return 0
    _, _, item, payload, _, _ = _HEAD.unpack_from(data)
    return int(_HEAD.size + item + payload)


def _is_whole(data: bytes | memoryview, at: int, size: int, salt: int) -> bool:
    """Whether these are the bytes of one record."""
    if size < _HEAD.size or len(data) < at + size:
        return False
    mark, crc = struct.unpack_from("<4sI", data, at)
    return bool(mark == _MARK and zlib.crc32(memoryview(data)[at + 8 : at + size], salt) == crc)


def _scan(fd: int, begin: int, end: int, salt: int, found: array[int]) -> int:
    """Collect the places of the records from `begin` on, up to the first that is not whole; return where that would be."""
    at = begin
    with mmap.mmap(fd, end, access=mmap.ACCESS_READ) as file, memoryview(file) as view:
        while _is_whole(view, at, size := _length(view[at : at + _HEAD.size]), salt):
            found.append(at)
            at += size
    return at


def _next_whole(fd: int, damaged: int, end: int, salt: int) -> int | None:
    """Return the place of the first whole record after a damaged one."""
    with mmap.mmap(fd, end, access=mmap.ACCESS_READ) as file, memoryview(file) as view:
        at = file.find(_MARK, damaged + 1)
        while at >= 0:
            if _is_whole(view, at, _length(view[at : at + _HEAD.size]), salt):
                return at
            at = file.find(_MARK, at + 1)
    return None
