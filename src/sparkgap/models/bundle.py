"""How a model travels: a folder or file named by the digest of its content, once to each executor.

The driver writes the bundle into its cache folder. A task's plan carries only a `BundleRef`: digest, names and
addresses, a few hundred bytes. On the executor, `locate` finds the files by the first way that works:

1. the driver's own path, where driver and executor see the same file system (local mode, NFS);
2. the artifact that the driver registered with Spark (`SparkSession.addArtifacts`), which Spark fetches once
   per executor; it is unpacked once per node, under a lock, into the cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkgap import _folders
from sparkgap._errors import ModelFormatError
from sparkgap.models.base import ModelAdapter, Packed
from sparkgap.tensors.spec import Signature

_CHUNK = 1 << 20
DONE = ".complete"
"""An empty file in a folder of the cache whose other files are all there."""


@dataclass(frozen=True)
class BundleRef:
    """What a plan carries of a model: enough to find and open it on an executor.

    Args:
        digest: content digest of the files and of everything that changes how they are opened.
        adapter: name of the adapter.
        format: name of the format.
        signature: JSON of the signature.
        meta: JSON of `Packed.meta`.
        path: where the driver has it: a folder, or one file.
        nbytes: size of the files, in bytes.
        stamp: modification time in ns, where `path` is the user's own file, which may change; else None.
        artifact: name of the Spark artifact (a tar file), where one was registered.
    """

    digest: str
    adapter: str
    format: str
    signature: str
    meta: str
    path: str
    nbytes: int
    stamp: int | None = None
    artifact: str | None = None

    def packed(self) -> Packed:
        """Return what the adapter's `open` wants."""
        return Packed(self.format, Signature.from_json(self.signature), json.loads(self.meta))


def cache_folder() -> Path:
    """Return this machine's bundle cache: `SPARKGAP_CACHE`, else under the user's cache folder."""
    folder = _folders.cache_folder() / "bundles"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def write(adapter: ModelAdapter, source: Any, options: Mapping[str, Any]) -> BundleRef:
    """Pack a source with its adapter into the cache; equal content gives the same bundle. Driver side."""
    cache = cache_folder()
    prune(cache)
    work = Path(tempfile.mkdtemp(prefix="packing-", dir=cache))
    try:
        files = work / "files"
        files.mkdir()
        packed = adapter.pack(source, files, options)
        path = packed.file or files
        digest = digest_of(path, adapter.name, packed)
        if packed.file is None:
            path = cache / digest
            publish(files, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return BundleRef(
        digest=digest,
        adapter=adapter.name,
        format=packed.format,
        signature=packed.signature.to_json(),
        meta=json.dumps(dict(packed.meta), sort_keys=True),
        path=str(path),
        nbytes=sum(f.stat().st_size for f in _files(path)),
        stamp=path.stat().st_mtime_ns if packed.file is not None else None,
    )


def prune(cache: Path, days: float = 14.0) -> None:
    """Remove bundles that nobody opened or wrote for that many days."""
    oldest = time.time() - days * 86_400
    for entry in cache.iterdir():
        try:
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        except FileNotFoundError:
            continue  # another process pruned it first


def locate(ref: BundleRef) -> Path:
    """Return a local path of the bundle. Runs where the model is opened.

    Raises:
        ModelFormatError: it is in none of the places that this machine can see, or it is not what was packed.
    """
    direct = Path(ref.path)
    if _is_same(direct, ref):
        if ref.stamp is None:
            os.utime(direct)  # in use: keep it from being pruned
        return direct
    tar = _artifact(ref)
    if tar is None:
        raise ModelFormatError(
            f"The model bundle {ref.digest[:12]} is neither at {ref.path} on this machine nor among the files "
            "that Spark sent. Was the model file deleted, moved or changed after gap.load? Load it again."
        )
    target = cache_folder() / ref.digest
    unpack_once(tar, target)
    return target if ref.stamp is None else target / direct.name


def archive(ref: BundleRef) -> Path:
    """Write the bundle as one uncompressed tar file, for `SparkSession.addArtifacts`. Driver side."""
    tar = cache_folder() / f"{ref.digest}.tar"
    if not tar.exists():
        source = Path(ref.path)
        write_tar(tar, [(source, "." if source.is_dir() else source.name)])
    return tar


def write_tar(tar: Path, entries: Iterable[tuple[Path, str]]) -> None:
    """Write files and folders into a tar file, under the names given with them; it is there whole, or not at all."""
    handle, name = tempfile.mkstemp(dir=tar.parent, prefix="tar-")
    os.close(handle)
    try:
        with tarfile.open(name, "w") as out:
            for path, inside in entries:
                out.add(path, arcname=inside)
        os.replace(name, tar)
    finally:
        Path(name).unlink(missing_ok=True)


def find_artifact(name: str) -> Path | None:
    """Return where Spark put an artifact on this machine; None where it did not."""
    from pyspark import SparkFiles

    for folder in (SparkFiles.getRootDirectory(), os.getcwd()):
        path = Path(folder) / name
        if path.is_file():
            return path
    return None


def unpack_once(tar: Path, target: Path) -> None:
    """Unpack a tar file into a folder of the cache, unless it is there; of several processes one does it."""
    with _lock(target):
        if not (target / DONE).exists():
            _unpack(tar, target)


def publish(files: Path, target: Path) -> None:
    """Move a finished folder to its name in the cache; the first of several writers wins."""
    (files / DONE).touch()
    with _lock(target):
        if not (target / DONE).exists():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(files, target)


def _is_same(path: Path, ref: BundleRef) -> bool:
    """Cheap check that a path still holds the bundle: a cached folder is immutable, a user's file is not."""
    if ref.stamp is None:
        return (path / DONE).exists()
    return path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns) == (ref.nbytes, ref.stamp)


def _artifact(ref: BundleRef) -> Path | None:
    return None if ref.artifact is None else find_artifact(ref.artifact)


def _unpack(tar: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(tar) as archive_file:
        archive_file.extractall(target, filter="data")
    (target / DONE).touch()


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    with open(target.with_name(target.name + ".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name != DONE)


def digest_of(path: Path, adapter: str, packed: Packed) -> str:
    """Return the digest of a bundle: of its files, and of all that changes how they are opened."""
    digest = hashlib.blake2b(digest_size=20)
    header = [adapter, packed.format, dict(packed.meta)]
    digest.update(json.dumps(header, sort_keys=True).encode())
    for file in _files(path):
        digest.update(file.relative_to(path).as_posix().encode())
        with open(file, "rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
