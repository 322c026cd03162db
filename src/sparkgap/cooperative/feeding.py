"""From what users train on to shards. Driver side."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.shards.dataset import Shards

FOLDER = "spark.sparkgap.shards.dir"
"""Setting: a folder that all machines share, for DataFrames that are written as shards."""


@contextmanager
def shards_of(data: Any, spark: SparkSession) -> Iterator[Shards | None]:
    """Give shards as they are, those of a path, or a table written as shards, which are removed after the block.

    Raises:
        ConfigurationError: it is none of these, or there is no folder to write to.
        DataError: the shards are damaged.
    """
    from sparkgap.shards.dataset import Shards, open_shards

    if data is None or isinstance(data, Shards):
        yield data
    elif isinstance(data, str | Path):
        yield open_shards(data)
    else:
        from sparkgap.shards.write import write_shards

        folder = _folder(spark)
        try:
            yield write_shards(data, folder, overwrite=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(spark: SparkSession) -> str:
    """Return a new folder for a DataFrame's shards.

    Raises:
        ConfigurationError: none is known to be seen by all machines.
    """
    shared = _spark.conf(spark, FOLDER, "")
    if not shared and not _spark.conf(spark, "spark.master", "").startswith("local"):
        raise ConfigurationError(
            "gap.train writes a DataFrame as shards first, and needs a folder for them that all machines share. Set "
            f"{FOLDER}, or write them yourself: gap.train(fn, gap.write_shards(df, path))."
        )
    return tempfile.mkdtemp(prefix="sparkgap-shards-", dir=shared or None)
