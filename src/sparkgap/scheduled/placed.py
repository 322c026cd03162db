"""Data that every task reads: put once on each node, as files that the tasks of the node map into memory.

`place` (driver) writes a value into the cache folder under a name that its content gives, or takes the user's own file or
folder as it is. `fetch` (where a task runs) opens it: at the driver's path where that is visible, else from the artifact
that Spark sent, unpacked once a node. What it returns shares the page cache: sixteen tasks need the memory of one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from sparkgap import _folders
from sparkgap._errors import ConfigurationError, DataError, FileChangedError
from sparkgap.models import bundle
from sparkgap.scheduled.identity import Digesting

_CHUNK = 4 << 20

_TAKEN = (
    "Taken are numpy arrays, Arrow tables, pandas DataFrames, a dict, list or tuple of these, and the path of a file or "
    "folder (str or Path). A Spark DataFrame: df.toArrow(). Other objects: give them in the items, or save them to a file."
)


@dataclass(frozen=True)
class PlacedRef:
    """What a task carries of a placed value: enough to find and open it. A few hundred bytes.

    Args:
        digest: digest of the content, and of its names; of a path: of the names, sizes and times of its files.
        kind: ``"one"``, ``"dict"``, ``"list"`` or ``"tuple"`` of values; ``"path"``: the user's own file or folder.
        path: where the driver has it.
        nbytes: size of the files, in bytes.
        files: of each value its file's name, ending in ``.npy``, ``.arrow`` or ``.pandas``; empty for a path.
        names: the keys of a dict.
        artifact: name of the Spark artifact (the tar file that `archive` wrote), where one was registered.
    """

    digest: str
    kind: str
    path: str
    nbytes: int
    files: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    artifact: str | None = None


class _Writable(Protocol):
    def write(self, data: Any, /) -> Any: ...


_Write = Callable[[_Writable], None]


def cache_folder() -> Path:
    """Return this machine's folder of placed values: ``placed`` in the cache folder."""
    folder = _folders.cache_folder() / "placed"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def place(value: Any) -> PlacedRef:
    """Write a value into the cache, unless equal content is there. Driver side; reads it twice, and copies it never.

    Args:
        value: a numpy array, Arrow table or pandas DataFrame; a dict (keys are str), list or tuple of these; a path, which is
            not copied: its files must stay as they are. Links to folders below it are not followed.

    Raises:
        ConfigurationError: it is none of these, or an array or column cannot be mapped into memory; nothing was written.
        DataError: it cannot be written.
    """
    if isinstance(value, str | Path):
        return _own(Path(value))
    kind, names, values = _parts(value)
    leaves = [_leaf(part, name) for part, name in zip(values, names or map(str, range(len(values))), strict=True)]
    files = tuple(f"{number}{suffix}" for number, (suffix, _) in enumerate(leaves))
    state = blake2b(repr((kind, names, files)).encode(), digest_size=20)
    for _, write in leaves:
        state.update(_digest(write))
    target = cache_folder() / state.hexdigest()
    bundle.prune(target.parent)
    if (target / bundle.DONE).exists():
        os.utime(target)
    else:
        _store(target, zip(files, (write for _, write in leaves), strict=True))
    size = sum((target / name).stat().st_size for name in files)
    return PlacedRef(state.hexdigest(), kind, str(target), size, files, names)


def fetch(ref: PlacedRef) -> Any:
    """Open a placed value: arrays and tables over mapped files, not to be written to; a path as a `Path`. Any process.

    A pandas DataFrame is made from the table; its columns of plain numbers lie in the mapped file, and cannot be written to.

    Raises:
        FileChangedError: it is in none of the places that this machine can see, or is not what was placed.
    """
    folder = _located(ref)
    if ref.kind == "path":
        return folder
    values = [_opened(folder / name) for name in ref.files]
    if ref.kind == "one":
        return values[0]
    if ref.kind == "dict":
        return dict(zip(ref.names, values, strict=True))
    return values if ref.kind == "list" else tuple(values)


def archive(ref: PlacedRef) -> Path:
    """Write a placed value as a tar file for `SparkSession.addArtifacts`, unless it is there. Driver side.

    Raises:
        DataError: it cannot be written.
    """
    tar = cache_folder() / f"{ref.digest}.tar"
    source = Path(ref.path)
    inside = Path(source.name if ref.kind == "path" else "")
    if not tar.exists():
        # The mark of a finished folder is made anew where the tar is unpacked, at the end.
        files = [file for file in _files(source) if ref.kind == "path" or file.name != bundle.DONE]
        with _telling(ref.path):
            # Resolved: a link to a file elsewhere would lead nowhere on another machine.
            bundle.write_tar(tar, ((file.resolve(), str(inside / file.relative_to(source))) for file in files))
    return tar


def _own(path: Path) -> PlacedRef:
    path = path.expanduser().absolute()
    if not path.exists():
        raise ConfigurationError(
            f"data= is {str(path)!r}, and the driver has no such file or folder. "
            f"Text and addresses, such as s3://..., are given in the items, or captured by the function. {_TAKEN}"
        )
    return PlacedRef(_stamp(path), "path", str(path), sum(file.stat().st_size for file in _files(path)))


def _stamp(path: Path) -> str:
    """Digest the names, sizes and times of change of the files at a path: cheap, where the content may be huge."""
    state = blake2b(str(path).encode(errors="surrogateescape"), digest_size=20)
    for file in _files(path):
        found = file.stat()
        state.update(repr((str(file.relative_to(path)), found.st_size, found.st_mtime_ns)).encode())
    return state.hexdigest()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _parts(value: Any) -> tuple[str, tuple[str, ...], list[Any]]:
    """Return the kind, the keys and the values to be written."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ConfigurationError(f"The keys of a dict of data are text, got {wrong[0]!r}. Use {str(wrong[0])!r}.")
        return "dict", tuple(value), list(value.values())
    if isinstance(value, list | tuple):
        return ("list" if isinstance(value, list) else "tuple"), (), list(value)
    return "one", (), [value]


def _leaf(value: Any, name: str) -> tuple[str, _Write]:
    """Return the suffix of a value's file and what writes it."""
    import numpy as np
    import pyarrow as pa

    if isinstance(value, np.ndarray):
        _check(value, name)
        return ".npy", partial(_write_array, value)
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return ".arrow", partial(_write_table, value)
    if type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "DataFrame":
        try:
            return ".pandas", partial(_write_table, pa.Table.from_pandas(value))
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"The DataFrame {name} of data= cannot be made an Arrow table: {error}. Give its columns one type each."
            ) from error
    raise ConfigurationError(
        f"The value {name} of data= is of type {type(value).__qualname__}, which cannot be placed. {_TAKEN}"
    )


def _check(array: Any, name: str) -> None:
    """Refuse what a mapped ``.npy`` file cannot hold as it is."""
    import numpy as np

    dtype = array.dtype
    if dtype.hasobject:
        raise ConfigurationError(
            f"The array {name} of data= has dtype {dtype}: its elements are Python objects, which cannot be mapped "
            "into memory. Use np.stack for arrays of one shape, array.astype('U') for text, or an Arrow table."
        )
    if isinstance(array, np.ma.MaskedArray):
        raise ConfigurationError(f"The array {name} of data= is masked. Give {{'data': array.data, 'mask': array.mask}}.")
    if np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype)) != dtype:
        raise ConfigurationError(
            f"The array {name} of data= has dtype {dtype}, which a .npy file cannot name. "
            f"Give array.view('u{dtype.itemsize}'), and view it as what it is in the function."
        )


def _write_array(array: Any, out: _Writable) -> None:
    """Write the ``.npy`` format in pieces of some MiB: `np.save` writes to real files only, and this digests too."""
    import numpy as np

    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    out.write(head.getvalue())
    rows = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array  # the header says so too
    size = max(1, _CHUNK // max(1, array.itemsize))
    pieces = np.nditer(rows, flags=["external_loop", "buffered", "zerosize_ok"], buffersize=size, order="C")
    for piece in pieces:
        out.write(np.asarray(piece).tobytes())


def _write_table(table: Any, out: _Writable) -> None:
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)  # chunks may differ in theirs, and a file has one
    with pa.ipc.new_file(pa.PythonFile(out, mode="w"), table.schema, options=options) as writer:
        writer.write_table(table)


def _digest(write: _Write) -> bytes:
    state = blake2b(digest_size=20)
    write(Digesting(state))
    return state.digest()


def _store(target: Path, parts: Iterable[tuple[str, _Write]]) -> None:
    with _telling(str(target)):
        work = Path(tempfile.mkdtemp(prefix="placing-", dir=target.parent))
        try:
            files = work / "files"
            files.mkdir()
            for name, write in parts:
                with open(files / name, "wb") as out:
                    write(out)
            bundle.publish(files, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Say what to do where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The data {path} cannot be written into {cache_folder()}: {error.strerror or error}. Free space there, or set "
            "SPARKGAP_CACHE to a folder with more of it."
        ) from error


def _located(ref: PlacedRef) -> Path:
    direct = Path(ref.path)
    if ref.kind == "path":
        if direct.exists() and _stamp(direct) == ref.digest:
            return direct
    elif (direct / bundle.DONE).exists():
        os.utime(direct)  # in use: keep it from being pruned
        return direct
    tar = None if ref.artifact is None else bundle.find_artifact(ref.artifact)
    if tar is None:
        raise FileChangedError(
            f"The data at {ref.path} is not there on this machine, or not as it was when the run was made, "
            "and is not among the files that Spark sent. Was it changed or removed? Make the run again."
        )
    target = cache_folder() / ref.digest
    bundle.unpack_once(tar, target)
    os.utime(target)
    return target / direct.name if ref.kind == "path" else target


def _opened(path: Path) -> Any:
    if path.suffix == ".npy":
        import numpy as np

        return np.load(path, mmap_mode="r")
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table if path.suffix == ".arrow" else table.to_pandas(split_blocks=True)
