"""The folder that a job writes: files appear in it when the whole job has ended well. Driver and executors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from sparkgap._errors import ConfigurationError, DataError, SparkGapError
from sparkgap.data import storage
from sparkgap.data.discovery import is_hidden

_OURS = re.compile(r"part-\d{5}(-\d{5})?\..*|index\.json")
_WORK = re.compile(r"_writing-[0-9a-f]{32}")
DONE = "_SUCCESS"


@dataclass(frozen=True)
class Made:
    """A file that a task has written.

    Args:
        name: that it gets.
        temporary: its name in the job's working folder.
        rows: in it.
        bytes: of it.
        entry: what an index says of it, as JSON.
    """

    name: str
    temporary: str
    rows: int
    bytes: int
    entry: str


@dataclass(frozen=True)
class Folder:
    """Where a job writes. A plain value that travels.

    Args:
        root: the file system, as in `storage.locate`.
        path: below it.
        work: name of the job's working folder in it.
        options: for fsspec, as (name, value).
    """

    root: str
    path: str
    work: str = field(default_factory=lambda: f"_writing-{uuid.uuid4().hex}")
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)  # may hold credentials

    @property
    def origin(self) -> str:
        """What a user would call it."""
        return f"{self.root}/{self.path}" if self.root else self.path

    def open(self) -> tuple[pafs.FileSystem, str]:
        """Return the file system, and the folder's path in it."""
        system, base = storage.filesystem(self.root, dict(self.options))
        return system, (storage.join(base, self.path) if self.root else self.path)

    def prepare(self, *, overwrite: bool) -> None:
        """Make the working folder; refuse a folder with files, unless they are of an earlier job and may be replaced.

        Raises:
            ConfigurationError: there are such files.
        """
        system, path = self.open()
        with self.telling("made"):
            found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            names = [f.base_name for f in found if not is_hidden(f.base_name)]
            other = [n for n in names if not _OURS.fullmatch(n)]
            if other or (names and not overwrite):
                advice = "Choose another folder" + (
                    ", or write with overwrite=True." if not other else ": only its own are replaced."
                )
                raise ConfigurationError(f"There are files at {self.origin}, e.g. {(other or names)[0]}. {advice}")
            for old in found:
                if _WORK.fullmatch(old.base_name):  # of a job that was cut off
                    system.delete_dir(old.path)
            system.create_dir(f"{path}/{self.work}", recursive=True)

    def commit(self, made: Sequence[Made], index: tuple[str, bytes] | None) -> None:
        """Put the files in the place of those that are there; the index, and a mark that all is there, come last."""
        system, path = self.open()
        with self.telling("written"):
            for old in system.get_file_info(pafs.FileSelector(path)):
                if old.is_file and (_OURS.fullmatch(old.base_name) or old.base_name == DONE):
                    system.delete_file(old.path)
            for file in made:
                system.move(f"{path}/{self.work}/{file.temporary}", f"{path}/{file.name}")
            for name, content in [index] if index else []:
                with system.open_output_stream(f"{path}/{self.work}/{name}", compression=None) as stream:
                    stream.write(content)
                system.move(f"{path}/{self.work}/{name}", f"{path}/{name}")
            with system.open_output_stream(f"{path}/{DONE}", compression=None):
                pass
        self.clean()

    def clean(self) -> None:
        """Delete the working folder."""
        system, path = self.open()
        with self.telling("deleted"):
            system.delete_dir(f"{path}/{self.work}")

    @contextmanager
    def telling(self, done: str) -> Iterator[None]:
        """Say which folder it was where the file system fails."""
        try:
            yield
        except SparkGapError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.origin} cannot be {done}: {error}. Check space, permissions and the path.") from error


class TaskOutput:
    """Where one attempt at one partition writes: no other attempt has its names.

    Args:
        folder: of the job.
        partition: its number.
    """

    def __init__(self, folder: Folder, partition: int) -> None:
        self._folder, self._partition = folder, partition
        self._attempt = uuid.uuid4().hex
        self._name = ""
        self._count = 0
        self.made: list[Made] = []

    def create(self, suffix: str) -> Any:
        """Make a new file and return a binary stream that writes it."""
        more = f"-{self._count:05d}" if self._count else ""
        self._name, self._count = f"part-{self._partition:05d}{more}{suffix}", self._count + 1
        system, _ = self._folder.open()
        with self._folder.telling("written"):
            return system.open_output_stream(self._path(), compression=None)

    def wrote(self, rows: int, entry: dict[str, Any] | None = None) -> None:
        """Tell what is in the file that was made last; it is closed."""
        system, _ = self._folder.open()
        with self._folder.telling("written"):
            size = system.get_file_info(self._path()).size
        self.made.append(Made(self._name, f"{self._attempt}-{self._name}", rows, size, json.dumps(entry or {})))

    def _path(self) -> str:
        return f"{self._folder.open()[1]}/{self._folder.work}/{self._attempt}-{self._name}"
