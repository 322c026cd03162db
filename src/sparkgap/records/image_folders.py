"""Folders of images: the name of the folder is the class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import discovery
from sparkgap.data.footers import part_of
from sparkgap.data.image_files import EXTENSIONS, ImageSource
from sparkgap.data.source import Chunk, Source
from sparkgap.data.splits import FilePart, Split, Unit, plan_splits
from sparkgap.data.storage import Options

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_LABELS = pa.schema([("label", pa.string()), ("label_index", pa.int64())])


@dataclass(frozen=True)
class ImageFolders(Source):
    """Image files, one a row, with the class that the folder names.

    Args:
        images: reads the files.
        columns: which to give, in order.
        classes: names of the classes; `label_index` is the position in it.
        parts: the files, on the driver; None in a task.
    """

    name: ClassVar[str] = "folders of images"
    default_keep: ClassVar[tuple[str, ...] | None] = ("path", "label")

    images: ImageSource
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    parts: tuple[FilePart, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        every = {f.name: f for f in [*self.images.schema, *_LABELS]}
        return pa.schema([every[name] for name in self.columns])

    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
        """Divide the files among tasks."""
        if self.parts is None:
            raise ConfigurationError("The list of files stayed on the driver: plan there, only read in tasks.")
        return plan_splits([Unit(p, p.size) for p in self.parts], tasks=tasks, max_bytes=max_bytes)

    def read(self, split: Split, *, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
        """Read files, a few of them at the same time."""
        stored = [c for c in columns if c not in _LABELS.names] or ["path"]
        at = 0
        for chunk in self.images.read(split, columns=stored, rows=rows):
            count = chunk.batch.num_rows
            numbers = [part.values[0] for part in split.parts[at : at + count]]
            at += count
            data = dict(zip(stored, chunk.batch.columns, strict=True))
            data["label"] = pa.array([self.classes[n] for n in numbers], pa.string())
            data["label_index"] = pa.array(numbers, pa.int64())
            schema = pa.schema([(c, data[c].type) for c in columns])
            yield Chunk(pa.RecordBatch.from_arrays([data[c] for c in columns], schema=schema), chunk.origin, chunk.first_row)

    def to_df(self, spark: SparkSession) -> DataFrame:
        """Return the rows as a DataFrame."""
        from sparkgap.records.record_source import frame_of

        return frame_of(self, spark)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "parts": None}


def image_folders(
    path: discovery.Paths, columns: Sequence[str] | None, options: Options, *, extensions: Sequence[str] = EXTENSIONS
) -> ImageFolders:
    """List the images below a folder, and their classes: the folders in it, by name.

    Raises:
        DataError: there is no image, or one lies in no folder of a class.
    """
    endings = tuple("." + e.lower().lstrip(".") for e in extensions)
    entries = [e for e in discovery.discover(path, options).entries if e.path.lower().endswith(endings)]
    if not entries:
        raise DataError(f"There is no image at {path}: no file ends with {', '.join(endings)}. Name others with extensions=.")
    bare = [e for e in entries if not e.folders]
    if bare:
        raise DataError(
            f"{bare[0].origin} lies in no folder below {path}, so it has no class. Give the folder that has a folder for each "
            "class, or read images without classes with gap.images."
        )
    classes = tuple(sorted({e.folders[0] for e in entries}))
    parts = tuple(part_of(e, (classes.index(e.folders[0]),)) for e in entries)
    every = ("path", "label", "label_index", "modificationTime", "length", "content")
    wanted = every if columns is None else tuple(columns)
    unknown = [c for c in wanted if c not in every]
    if unknown or not wanted:
        raise ConfigurationError(f"columns is {list(wanted)}; there are: {', '.join(every)}.")
    return ImageFolders(ImageSource(tuple(sorted(options.items()))), wanted, classes, parts)
