"""A folder in a file system whose files appear whole, and what writers that were killed have left."""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow.fs as pafs

from sparkgap.shards.folder import ON_REQUEST, Folder

_TEMPORARY = re.compile(r".+\.([0-9a-f]{16})-[0-9a-f]{32}\.tmp")  # with the nanosecond when it was begun
_STALE_SECONDS = 24 * 3600
"""Age of a temporary file that is taken for abandoned on file systems without locks."""


@dataclass(frozen=True)
class WholeFiles(Folder):
    """A folder whose files appear at once and whole. Its methods raise what the file system raises."""

    def files(self) -> list[str]:
        """Return the names of its files; none where there is no folder."""
        system, path = self.open()
        found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return [str(info.base_name) for info in found if info.is_file]

    def read(self, file: str) -> np.ndarray:
        """Return the bytes of a file, in memory that can be written to.

        Raises:
            ValueError: it got shorter while it was read.
        """
        system, path = self.open()
        with system.open_input_file(f"{path}/{file}") as stream:
            content = np.empty(stream.size(), np.uint8)
            left = memoryview(content.data)
            while left and (count := stream.readinto(left)):
                left = left[count:]
        if left:
            raise ValueError(f"it ended {len(left)} bytes before its size")
        return content

    def write(self, file: str, parts: Sequence[memoryview]) -> None:
        """Write a file so that it appears at once and whole, in the place of another one of that name."""
        system, path = self.open()
        system.create_dir(path, recursive=True)
        if self.local:
            _write_local(path, file, parts)
        elif self.root.startswith(ON_REQUEST):  # a rename would be a copy, and files appear when they are closed
            _write_stream(system, f"{path}/{file}", parts)
        else:
            temporary = f"{path}/{_temporary(file)}"
            _write_stream(system, temporary, parts)
            if system.get_file_info(f"{path}/{file}").type != pafs.FileType.NotFound:
                system.delete_file(f"{path}/{file}")  # HDFS and others do not rename over a file
            system.move(temporary, f"{path}/{file}")

    def remove(self, file: str) -> None:
        """Delete a file; it does not matter if another process was faster."""
        with suppress(FileNotFoundError):
            system, path = self.open()
            system.delete_file(f"{path}/{file}")

    def remove_stale(self) -> None:
        """Delete what writers that were killed have left; files that are being written stay."""
        _, path = self.open()
        for name in self.files():
            if found := _TEMPORARY.fullmatch(name):
                old = time.time_ns() - int(found[1], 16) > _STALE_SECONDS * 10**9
                if _abandoned(f"{path}/{name}", old) if self.local else old:
                    self.remove(name)


def _temporary(file: str) -> str:
    return f"{file}.{time.time_ns():016x}-{uuid.uuid4().hex}.tmp"


def _write_stream(system: pafs.FileSystem, path: str, parts: Sequence[memoryview]) -> None:
    try:
        with system.open_output_stream(path) as stream:
            for part in parts:
                stream.write(part)
    except BaseException:
        with suppress(OSError):
            system.delete_file(path)
        raise


def _write_local(folder: str, file: str, parts: Sequence[memoryview]) -> None:
    descriptor, temporary = _locked_file(folder, file)
    try:
        for part in parts:
            while part:
                part = part[os.write(descriptor, part) :]
        os.fsync(descriptor)
        os.rename(temporary, f"{folder}/{file}")
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(folder)


def _locked_file(folder: str, file: str) -> tuple[int, str]:
    """Make a temporary file that is locked as long as this process has it open: so others see that it is in use."""
    while True:
        path = f"{folder}/{_temporary(file)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # without locks, age decides
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(path):  # else it was taken for an abandoned one before it was locked
            return descriptor, path
        os.close(descriptor)


def _abandoned(path: str, old: bool) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return old
    finally:
        os.close(descriptor)
    return True


def _sync_folder(folder: str) -> None:
    """Make a rename last: it is an entry of the folder, which is written on its own."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
