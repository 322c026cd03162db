"""Which files are meant: paths, folders and globs -> a list of files, by Spark's rules. Driver side.

Names that start with "_" or "." are skipped, as in Spark; folders are searched to any depth.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import storage

Paths = str | Path | Sequence[str | Path]

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class FileEntry:
    """One file that was found.

    Args:
        root: its file system, as in `storage.filesystem`.
        path: its path there.
        size: in bytes.
        mtime_ns: modification time; None where the file system does not tell.
        folders: names of the folders between the folder that was asked for and the file.
    """

    root: str
    path: str
    size: int
    mtime_ns: int | None
    folders: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """What a user would call it."""
        return storage.origin(self.root, self.path)


@dataclass(frozen=True)
class Listing:
    """What was found.

    Args:
        entries: the files, in the order of the paths, and by name in each folder.
        tops: the files and folders that the paths name, with globs expanded, as `(root, path)`.
    """

    entries: tuple[FileEntry, ...]
    tops: tuple[tuple[str, str], ...]


def discover(paths: Paths, options: storage.Options, *, recursive: bool = True) -> Listing:
    """List the files that the paths mean.

    Args:
        paths: a local path or URI, or several; each a file, a folder or a glob (`*`, `?`, `[…]`, `**`).
        options: as for `storage.resolve`.
        recursive: whether folders in folders are searched.

    Raises:
        ConfigurationError: no path was given, or one lies in another one.
        DataError: a path does not exist or cannot be listed.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ConfigurationError("No path was given: name a file, a folder or a glob.")
    tops: list[tuple[str, str]] = []
    entries: list[FileEntry] = []
    for place in given:
        try:
            for root, info in _expand(place, options):
                tops.append((root, info.path))
                entries.extend(_files(root, info, options, recursive))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{place} cannot be listed: {error}. Check the path and the permissions.") from error
    _check_apart(tops)
    return Listing(tuple(entries), tuple(tops))


def is_hidden(name: str) -> bool:
    """Whether Spark leaves a file or folder of this name out."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")


def _expand(place: str | Path, options: storage.Options) -> Iterator[tuple[str, pafs.FileInfo]]:
    root, rest = storage.locate(place)
    system, base = storage.filesystem(root, options)
    path = storage.join(base, rest) if root else rest
    info = system.get_file_info(path)
    if info.type != pafs.FileType.NotFound:
        yield root, info
        return
    found = list(_glob(system, base, rest)) if _MAGIC.search(rest) else []
    if not found:
        raise DataError(f"There is nothing at {place}. Check the path, and that this machine sees it.")
    for info in found:
        yield root, info


def _glob(system: pafs.FileSystem, base: str, pattern: str) -> Iterator[pafs.FileInfo]:
    """Match a pattern level by level: only the folders that can match are listed."""
    segments = re.sub(r"(/\*\*)+$", "", pattern).split("/")  # folders are searched to any depth anyway
    segments = segments if any(map(_MAGIC.search, segments)) else [*segments, "*"]
    first = next(i for i, s in enumerate(segments) if _MAGIC.search(s))
    start = storage.join(base, "/".join(segments[:first])) or "/"
    if system.get_file_info(start).type == pafs.FileType.NotFound:
        return
    level = [start]
    for i, segment in enumerate(segments[first:], first + 1):
        found = [info for folder in level for info in _matches(system, folder, segment)]
        if i == len(segments):
            yield from sorted(found, key=lambda info: str(info.path))
            return
        level = [str(info.path) for info in found if not info.is_file]
        if segment == "**":
            level = [*dict.fromkeys([start, *level])]


def _matches(system: pafs.FileSystem, folder: str, segment: str) -> list[pafs.FileInfo]:
    if not _MAGIC.search(segment):
        info = system.get_file_info(storage.join(folder, segment))
        return [] if info.type == pafs.FileType.NotFound else [info]
    deep = segment == "**"
    shape = re.compile(fnmatch.translate("*" if deep else segment))
    return [
        info
        for info in system.get_file_info(pafs.FileSelector(folder, recursive=deep))
        if shape.match(info.base_name) and not any(is_hidden(n) for n in _below(folder, info.path))
    ]


def _files(root: str, top: pafs.FileInfo, options: storage.Options, recursive: bool) -> list[FileEntry]:
    if top.is_file:
        return [] if is_hidden(top.base_name) else [_entry(root, top, ())]
    system, _ = storage.filesystem(root, options)
    infos = system.get_file_info(pafs.FileSelector(top.path, recursive=recursive))
    found = []
    for info in sorted(infos, key=lambda info: str(info.path)):
        names = _below(top.path, info.path)
        if info.is_file and not any(is_hidden(n) for n in names):
            found.append(_entry(root, info, names[:-1]))
    return found


def _entry(root: str, info: pafs.FileInfo, folders: tuple[str, ...]) -> FileEntry:
    return FileEntry(root, info.path, info.size, None if info.mtime is None else info.mtime_ns, folders)


def _below(top: str, path: str) -> tuple[str, ...]:
    return tuple(path[len(top) :].strip("/").split("/")) if path.startswith(top) else tuple(path.strip("/").split("/"))


def _check_apart(tops: list[tuple[str, str]]) -> None:
    """Refuse paths that lie in each other: their files would be read twice."""
    seen = set()
    for top in tops:
        if top in seen:
            raise ConfigurationError(f"{storage.origin(*top)} is named twice. Name each file once.")
        seen.add(top)
    for root, path in tops:
        parent = path
        while "/" in parent.rstrip("/"):
            parent = parent.rstrip("/").rpartition("/")[0]
            if (root, parent) in seen:
                raise ConfigurationError(
                    f"{storage.origin(root, path)} lies in {storage.origin(root, parent)}, which is named too. "
                    "Name each file once."
                )
