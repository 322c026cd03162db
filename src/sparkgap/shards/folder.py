"""A folder of shards in a file system: the few operations that writing and reading need. Driver and executors."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from sparkgap._errors import DataError, SparkGapError
from sparkgap.data import storage
from sparkgap.shards.format import INDEX, Index, parse

_DATA = re.compile(r"data-[0-9a-f]{32}")
_TEMPORARY = re.compile(r"index-[0-9a-f]{32}\.tmp")
ON_REQUEST = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "s3a://", "s3n://")
"""Object stores: what is written appears when it is closed, whole; a rename would be a copy."""


@dataclass(frozen=True)
class Folder:
    """Where shards lie. A plain value that travels; every process opens the file system by itself.

    Args:
        root: the file system, as in `storage.locate`.
        path: below it.
        options: for fsspec, as (name, value).
    """

    root: str
    path: str
    options: tuple[tuple[str, object], ...] = field(default=(), repr=False)  # may hold credentials

    @classmethod
    def of(cls, place: str | Path, options: storage.Options | None) -> Folder:
        """Return the folder of a local path or URI."""
        return cls(*storage.locate(place), tuple((options or {}).items()))

    @property
    def local(self) -> bool:
        """Whether it is in this machine's own file system."""
        return not self.root

    @property
    def origin(self) -> str:
        """What a user would call it."""
        return f"{self.root}/{self.path}" if self.root else self.path

    def name(self, file: str) -> str:
        """Return what a user would call a file in it."""
        return f"{self.origin.rstrip('/')}/{file}"

    def open(self) -> tuple[pafs.FileSystem, str]:
        """Return the file system, and the folder's path in it."""
        system, base = storage.filesystem(self.root, dict(self.options))
        return system, (storage.join(base, self.path) if self.root else self.path)

    def read_index(self) -> Index | None:
        """Read the index; None where there is none.

        Raises:
            DataError: it cannot be read, or is damaged.
        """
        system, path = self.open()
        with self.telling(INDEX, "read"):
            if system.get_file_info(f"{path}/{INDEX}").type == pafs.FileType.NotFound:
                return None
            with system.open_input_stream(f"{path}/{INDEX}") as stream:
                text = stream.read()
        return parse(text, self.name(INDEX))

    def write_index(self, index: Index) -> None:
        """Write the index so that it appears at once and whole, in the place of another one."""
        system, path = self.open()
        text = index.to_json().encode()
        with self.telling(INDEX, "written"):
            if self.root.startswith(ON_REQUEST):
                _write(system, f"{path}/{INDEX}", text)
                return
            temporary = f"{path}/index-{uuid.uuid4().hex}.tmp"
            _write(system, temporary, text)
            if self.root and system.get_file_info(f"{path}/{INDEX}").type != pafs.FileType.NotFound:
                system.delete_file(f"{path}/{INDEX}")  # HDFS and others do not rename over a file
            system.move(temporary, f"{path}/{INDEX}")

    def sizes(self, below: str) -> dict[str, int]:
        """Return the sizes of the files in one folder of data, by their paths below this folder."""
        system, path = self.open()
        with self.telling(below, "listed"):
            found = system.get_file_info(pafs.FileSelector(f"{path}/{below}", allow_not_found=True))
        return {f"{below}/{info.base_name}": info.size for info in found if info.is_file}

    def data_folders(self) -> list[str]:
        """Return the names of the folders that writers made here, finished or not."""
        return [name for name in self._names() if _DATA.fullmatch(name)]

    def create(self, below: str) -> None:
        """Make a folder of data."""
        system, path = self.open()
        with self.telling(below, "made"):
            system.create_dir(f"{path}/{below}", recursive=True)

    def delete(self, below: str) -> None:
        """Delete a folder of data."""
        system, path = self.open()
        with self.telling(below, "deleted"):
            system.delete_dir(f"{path}/{below}")

    def delete_file(self, file: str) -> None:
        """Delete a file."""
        system, path = self.open()
        with self.telling(file, "deleted"):
            system.delete_file(f"{path}/{file}")

    def clean(self, keep: Index | None) -> None:
        """Delete what writers left that is not in the index: whole folders, and single files beside those of the index.

        Nothing that has another name than a writer gives is touched.
        """
        kept = {shard.file for shard in keep.shards} if keep else set()
        for name in self._names():
            if _TEMPORARY.fullmatch(name):
                self.delete_file(name)
        for folder in self.data_folders():
            if not any(file.startswith(folder + "/") for file in kept):
                self.delete(folder)
                continue
            for file in self.sizes(folder):
                if file not in kept:
                    self.delete_file(file)

    @contextmanager
    def telling(self, file: str, done: str) -> Iterator[None]:
        """Say which file it was where the file system fails."""
        try:
            yield
        except SparkGapError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.name(file)} cannot be {done}: {error}. Check space, permissions and the path.") from error

    def _names(self) -> list[str]:
        system, path = self.open()
        with self.telling("", "listed"):
            found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(str(info.base_name) for info in found)


def _write(system: pafs.FileSystem, path: str, text: bytes) -> None:
    with system.open_output_stream(path) as stream:
        stream.write(text)
