"""What `overwrite="reuse"` compares: what a table is made of, where that is certain. Driver side."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from sparkgap._errors import ConfigurationError
from sparkgap.data.parquet import FileSource
from sparkgap.data.source import Source
from sparkgap.data.spark_scan import Fallback, recognise
from sparkgap.shards.format import VERSION

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def fingerprint(data: DataFrame | Source, key: str | None, options: Sequence[object]) -> str | Fallback:
    """Return what tells the content of the shards that would be written, or why nothing does.

    Equal ones mean equal rows. With a `key`, the user has said so. Else the table must be a plain scan of Parquet files
    (`spark.read.parquet(...)` with selected columns and simple filters on a classic session, or `gap.files(...)` on any):
    then it is the paths, sizes and modification times of the files, the columns and the filter.

    Args:
        data: the table.
        key: the user's name for the content.
        options: everything else that the shards depend on.

    Raises:
        ConfigurationError: the key is empty.
    """
    if key is not None:
        if not key:
            raise ConfigurationError('key is "": give a text that names the content, such as "train-2024-06-01".')
        return _digest("key", key, *options)
    found = recognise(data) if not isinstance(data, Source) else data
    if isinstance(found, Fallback):
        return found
    if not isinstance(found, FileSource) or found.catalog is None:
        return Fallback(f"{type(found).__name__} does not tell the state of its files")
    files = sorted((part.root, part.path, part.size, part.mtime_ns or 0, repr(part)) for _, part in found.catalog.files)
    if any(part.mtime_ns is None for _, part in found.catalog.files):
        return Fallback("the file system does not tell when its files were changed")
    return _digest("scan", files, found.select, found.where, found.catalog.where, str(found.table.schema), *options)


def _digest(*parts: object) -> str:
    return blake2b(repr((VERSION, *parts)).encode(errors="surrogateescape"), digest_size=20).hexdigest()
