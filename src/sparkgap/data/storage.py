"""Files wherever they are: this machine, or any URI that pyarrow or fsspec can open.

A place is a pair of plain strings, `root` (which file system) and `path` (inside it), because file systems do not
travel: every process makes its own from the root and keeps it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from sparkgap._errors import ConfigurationError, DataError, MissingDependencyError
from sparkgap._optional import need

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://(?P<host>[^/?]*)/?(?P<rest>.*)", re.S)
_QUERY = re.compile(r"\?(?=[A-Za-z_]+=)")
_NATIVE = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "gcs": "gs", "hdfs": "hdfs", "viewfs": "viewfs",
           "abfs": "abfs", "abfss": "abfss", "mock": "mock"}  # fmt: skip
_CHUNK = 1 << 20

_opened: dict[tuple[str, bytes], tuple[pafs.FileSystem, str]] = {}

Options = Mapping[str, Any]


def locate(place: str | Path) -> tuple[str, str]:
    """Tell the root and the path below it of a local path or a URI. Looks at nothing but local files.

    Returns:
        ``("", absolute path)`` for a file of this machine; ``("s3://bucket", "key/…")`` for others.
    """
    text = os.fspath(place)
    if text.startswith("file:"):
        return "", _local(text)
    match = _URI.fullmatch(text)
    if match is None:
        return "", os.path.abspath(os.path.expanduser(text))
    root, rest = f"{match['scheme']}://{match['host']}", match["rest"]
    if match["scheme"] in _NATIVE and len(pieces := _QUERY.split(rest, maxsplit=1)) == 2:
        rest, query = pieces
        root = f"{root}/?{query}"
    return root, rest.rstrip("/")


def resolve(place: str | Path, options: Options | None = None) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a local path or URI, and the path in it.

    Args:
        place: local path, or URI with any scheme of pyarrow or fsspec.
        options: arguments of the fsspec file system, e.g. ``{"key": …, "secret": …}``; with none, pyarrow's own
            file system is used where it has one.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingDependencyError: the package of that scheme is not installed.
        DataError: the file system cannot be reached.
    """
    root, rest = locate(place)
    system, base = filesystem(root, options)
    return system, join(base, rest) if root else rest


def join(base: str, rest: str) -> str:
    """Join a base path in a file system and a path below it."""
    return f"{base.rstrip('/')}/{rest}" if base and rest else (base or rest)


def filesystem(root: str, options: Options | None = None) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a root, and the path that the root itself has in it. Kept for the process."""
    key = (root, pickle.dumps(sorted((options or {}).items())))
    if key not in _opened:
        _opened[key] = _open(root, dict(options or {}))
    return _opened[key]


def origin(root: str, path: str) -> str:
    """Return what a user would call a file: its path here, or its URI."""
    if not root or "://" in path:
        return path
    scheme, _, host = root.partition("://")
    if path.startswith("/") and scheme in ("hdfs", "viewfs"):
        return f"{scheme}://{host.partition('/')[0]}{path}"
    return f"{scheme}://{path.lstrip('/')}"


def spark_path(root: str, path: str) -> str:
    """Return a file's name as Spark's readers want it: not percent-encoded, and with glob signs escaped."""
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", origin(root, path) if root else f"file://{path}")


def download(uri: str, folder: Path, options: Options | None = None) -> Path:
    """Copy a file or a folder from a URI into `folder`, once for each state of it.

    Args:
        uri: what to copy; its state is told by the sizes and modification times of its files.
        folder: where copies are kept. Safe with several processes: a copy appears only when it is complete.
        options: as for `resolve`.

    Returns:
        the local copy; its last name is that of the URI.

    Raises:
        DataError: there is nothing at the URI, or it cannot be read.
    """
    system, path = resolve(uri, options)
    name = path.rstrip("/").rpartition("/")[2] or "root"
    try:
        info = system.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise DataError(f"There is nothing at {uri}. Check the address and the permissions.")
        files = [info] if info.is_file else _below(system, path)
        if not files:
            raise DataError(f"There is no file in the folder {uri}. Check the address.")
        state = sorted((f.path, f.size, _mtime(f)) for f in files)
        target = folder / hashlib.blake2b(repr((uri, state)).encode(), digest_size=16).hexdigest()
        if not target.exists():
            _copy(system, path, files, target, name)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} cannot be downloaded: {error}. Check the address and the permissions.") from error
    return target / name


def _copy(system: pafs.FileSystem, path: str, files: list[pafs.FileInfo], target: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="download-", dir=target.parent))
    try:
        for file in files:
            local = work / name / file.path[len(path) :].lstrip("/")  # "/" and nothing: the file itself
            local.parent.mkdir(parents=True, exist_ok=True)
            with system.open_input_stream(file.path) as source, open(local, "wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)
        try:
            os.rename(work, target)
        except OSError:
            if not target.exists():  # else another process was faster, and its copy is the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _below(system: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    return [f for f in system.get_file_info(pafs.FileSelector(path, recursive=True)) if f.is_file]


def _mtime(info: pafs.FileInfo) -> int | None:
    return None if info.mtime is None else int(info.mtime_ns)


def _local(text: str) -> str:
    """Read both forms of file URI: percent-encoded, and as Spark writes them, plain."""
    path = re.sub(r"^file:(//[^/]*(?=/))?", "", text)
    return os.path.abspath(path if os.path.exists(path) else unquote(path))


def _open(root: str, options: dict[str, Any]) -> tuple[pafs.FileSystem, str]:
    if not root:
        if options:
            raise ConfigurationError("storage_options are for remote files; this path is a local one. Leave them out.")
        return pafs.LocalFileSystem(), ""
    scheme, _, rest = root.partition("://")
    try:
        if not options and scheme in _NATIVE:
            system, path = pafs.FileSystem.from_uri(f"{_NATIVE[scheme]}://{rest if '/' in rest else rest + '/'}")
            return system, path
    except pa.ArrowNotImplementedError:  # this build of pyarrow was made without it: fsspec may have it
        pass
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"The file system {root} cannot be reached: {error}. Check network and credentials.") from error
    return _open_fsspec(root, options)


def _open_fsspec(root: str, options: dict[str, Any]) -> tuple[pafs.FileSystem, str]:
    scheme = root.partition("://")[0]
    fsspec = need("fsspec", extra="storage", why=f"to read {scheme}:// addresses")
    try:
        system, path = fsspec.core.url_to_fs(root + "/", **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"A package is needed to read {scheme}:// addresses, and it is not there: {error}. "
            "Install it on the driver and on every executor."
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"Nobody knows how to open {scheme}:// addresses ({error}). Use a local path, or a scheme of pyarrow or fsspec."
        ) from error
    at_top = "/" if scheme == "local" else ""  # a path of this machine without it would be one below the working folder
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path.rstrip("/") or at_top
