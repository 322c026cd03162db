"""`gap.images`: image files, one a row, with the columns of Spark's own `binaryFile`."""

from __future__ import annotations

import datetime
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import discovery, storage
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import part_of
from sparkgap.data.parquet_read import check_unchanged, explained
from sparkgap.data.source import Chunk, Source
from sparkgap.data.splits import FilePart, Split, Unit, plan_splits

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")

_SCHEMA = pa.schema(
    [("path", pa.string()), ("modificationTime", pa.timestamp("us", "UTC")), ("length", pa.int64()), ("content", pa.binary())]
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_BATCH_BYTES = 32 << 20
_THREADS = 4
_AHEAD = 16
"""Files that are being read before they are asked for."""


@dataclass(frozen=True)
class ImageCatalog:
    """What only the driver knows of images.

    Args:
        entries: the files.
        tops: files and folders as the user named them.
        recursive: whether folders in folders were searched.
        extensions: endings that count; None for all files.
    """

    entries: tuple[FileEntry, ...]
    tops: tuple[tuple[str, str], ...]
    recursive: bool
    extensions: tuple[str, ...] | None


@dataclass(frozen=True)
class ImageSource(Source):
    """Image files, one a row: path, modificationTime, length, content. Made by `gap.images`.

    Args:
        options: options of the file system.
        ignored: how many other files were found, and left out for their ending.
        catalog: the files; None in a task.
    """

    name: ClassVar[str] = "image files"
    default_keep: ClassVar[tuple[str, ...] | None] = ("path",)

    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    ignored: int = 0
    catalog: ImageCatalog | None = field(default=None, repr=False, compare=False)

    @property
    def schema(self) -> pa.Schema:
        return _SCHEMA

    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
        units = [Unit(part_of(e), e.size) for e in self._on_driver().entries]
        return plan_splits(units, tasks=tasks, max_bytes=max_bytes)

    def read(self, split: Split, *, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
        contents: Iterator[tuple[FilePart, bytes | None]] = ((part, None) for part in split.parts)
        if "content" in columns:
            contents = _contents(self.options, split.parts)
        waiting: list[tuple[FilePart, bytes | None]] = []
        size = 0
        for part, content in contents:
            if waiting and (len(waiting) == rows or size + part.size > _BATCH_BYTES):
                yield _chunk(waiting, columns)
                waiting, size = [], 0
            waiting.append((part, content))
            size += part.size
        if waiting:
            yield _chunk(waiting, columns)

    def to_df(self, spark: SparkSession) -> DataFrame:
        catalog = self._on_driver()
        reader = spark.read.format("binaryFile")
        if catalog.recursive:
            reader = reader.option("recursiveFileLookup", "true")
            if catalog.extensions is not None:
                reader = reader.option("pathGlobFilter", _any_case(catalog.extensions))
            df = reader.load([storage.spark_path(*top) for top in catalog.tops])
        else:  # Spark would take folders `name=value` for partitions, and search them
            df = reader.load([storage.spark_path(e.root, e.path) for e in catalog.entries if e.size])
        df = df.select(*_SCHEMA.names)
        empty = [(_uri(e.root, e.path), _time(e.mtime_ns), 0, b"") for e in catalog.entries if not e.size]
        # Spark leaves empty files out; here they are rows, whose decoding fails by the policy of the user.
        return df.union(spark.createDataFrame(empty, df.schema)) if empty else df

    def _on_driver(self) -> ImageCatalog:
        if self.catalog is None:
            raise ConfigurationError("The list of files stayed on the driver: plan there, only read in tasks.")
        return self.catalog

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "catalog": None}


def images(
    path: discovery.Paths,
    *,
    recursive: bool = True,
    extensions: Sequence[str] | None = EXTENSIONS,
    storage_options: Mapping[str, Any] | None = None,
) -> ImageSource:
    """Name image files that tasks read by themselves, one row a file.

    The files are listed now. Columns: `path` string, `modificationTime` timestamp, `length` bigint, `content` binary,
    as Spark's `binaryFile` gives them; of these only `path` stays beside a model's outputs by default. An empty file is a
    row like any other: decoding it fails by the policy of `on_error`.

    Args:
        path: local path or any URI of pyarrow or fsspec, or several; each a file, a folder or a glob.
        recursive: whether folders in folders are searched.
        extensions: endings that count, in any case; None for every file. Others are left out, and counted in
            `ignored`. Names that start with "_" or "." are left out always, as in Spark.
        storage_options: arguments of the fsspec file system; without any, pyarrow's own is used where it has one.

    Raises:
        ConfigurationError: an option is wrong.
        DataError: there are no such files.
    """
    endings = _endings(extensions)
    options = dict(storage_options or {})
    listing = discovery.discover(path, options, recursive=recursive)
    entries = [e for e in listing.entries if endings is None or e.path.lower().endswith(endings)]
    ignored = len(listing.entries) - len(entries)
    if not entries:
        raise DataError(
            f"There is no image at {path}: {ignored} files have other endings than {', '.join(endings or ())}. "
            "Check the path, or name the endings with extensions=."
        )
    kept = {(e.root, e.path) for e in entries}
    single = {(e.root, e.path) for e in listing.entries}
    tops = tuple(top for top in listing.tops if top in kept or top not in single)
    catalog = ImageCatalog(tuple(entries), tops, recursive, endings)
    return ImageSource(tuple(sorted(options.items())), ignored, catalog)


def _endings(extensions: Sequence[str] | None) -> tuple[str, ...] | None:
    if extensions is None:
        return None
    if isinstance(extensions, str) or not extensions or not all(isinstance(e, str) and e for e in extensions):
        raise ConfigurationError(f'extensions is {extensions!r}; give a list such as [".jpg", ".png"], or None for all.')
    return tuple(sorted({"." + e.lower().lstrip(".") for e in extensions}))


def _contents(options: tuple[tuple[str, Any], ...], parts: Sequence[FilePart]) -> Iterator[tuple[FilePart, bytes | None]]:
    """Read files with a few threads, in order, with a bounded number of files and bytes on the way."""
    waiting: deque[tuple[FilePart, Future[bytes]]] = deque()
    size = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sparkgap-images") as pool:
        try:
            for part in parts:
                while waiting and (len(waiting) >= _AHEAD or size + part.size > _BATCH_BYTES):
                    size -= waiting[0][0].size
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((part, pool.submit(_content, options, part)))
                size += part.size
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _content(options: tuple[tuple[str, Any], ...], part: FilePart) -> bytes:
    origin = storage.origin(part.root, part.path)
    with explained(origin):
        system, _ = storage.filesystem(part.root, dict(options))
        check_unchanged(system, part, origin)
        with system.open_input_stream(part.path) as stream:
            return bytes(stream.read())


def _chunk(files: Sequence[tuple[FilePart, bytes | None]], columns: Sequence[str]) -> Chunk:
    make: dict[str, Callable[[FilePart, bytes | None], Any]] = {
        "path": lambda part, _: _uri(part.root, part.path),
        "modificationTime": lambda part, _: _time(part.mtime_ns),
        "length": lambda part, _: part.size,
        "content": lambda _, content: content,
    }
    arrays = [pa.array([make[name](*file) for file in files], type=_SCHEMA.field(name).type) for name in columns]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema([_SCHEMA.field(name) for name in columns]))
    first = storage.origin(files[0][0].root, files[0][0].path)
    return Chunk(batch, first if len(files) == 1 else f"{first} and {len(files) - 1} files after it", 0)


def _uri(root: str, path: str) -> str:
    """Return a file's name as Spark's `binaryFile` writes it."""
    return storage.origin(root, path) if root else f"file:{path}"


def _time(mtime_ns: int | None) -> datetime.datetime | None:
    """Return a time as Spark knows it: to the millisecond."""
    if mtime_ns is None:
        return None
    return _EPOCH + datetime.timedelta(milliseconds=mtime_ns // 10**6)


def _any_case(endings: Sequence[str]) -> str:
    """Return a Hadoop glob for names with these endings in any case."""
    shapes = ["".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else re.sub(r"([*?\[\]{}\\])", r"\\\1", c) for c in e)
              for e in endings]  # fmt: skip
    return "*{" + ",".join(shapes) + "}"
