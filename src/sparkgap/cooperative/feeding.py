"""From what users train on to rows in the ranks: which way they go, and why. Driver side."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.broadcast import TooLarge, collected
from sparkgap.cooperative.plan_size import plan_bytes
from sparkgap.cooperative.streaming import rows_of_stream
from sparkgap.shards.sizes import size_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.cooperative.stream_feed import StreamRows
    from sparkgap.shards.dataset import Shards

_log = logging.getLogger("sparkgap.train")

Feed = Literal["auto", "shards", "stream", "broadcast"]
FEEDS = ("auto", "shards", "stream", "broadcast")
FOLDER = "spark.sparkgap.shards.dir"
"""Setting: a folder that all machines share, for DataFrames that are written as shards."""
SMALL = "spark.sparkgap.broadcast.bytes"
"""Setting: a DataFrame of so many bytes at most is small: ``feed="auto"`` collects it."""
SMALL_BYTES = "64m"
MOST_BYTES = 1 << 30
"""More than that is not collected, even where it is asked for."""


@dataclass(frozen=True)
class Source:
    """Where the rows come from.

    Args:
        feed: ``"shards"``, ``"broadcast"`` or ``"stream"``; "" where there are none.
        why: this one, for people.
        shards: where they lie.
        folder: of the driver, which is to be placed on each node.
        stream: what the ranks know of a DataFrame that is streamed.
    """

    feed: str
    why: str
    shards: Shards | None = None
    folder: Path | None = None
    stream: StreamRows | None = field(default=None)

    @property
    def details(self) -> Mapping[str, str]:
        """Facts for those who look on."""
        return {"feed": f"{self.feed}: {self.why}"} if self.feed else {}


@contextmanager
def source_of(
    data: Any, spark: SparkSession, feed: Feed, *, streams: bool = True, what: str = "gap.train"
) -> Iterator[Source]:
    """Choose how rows go to the ranks, and get them ready. What was written for that is removed after the block.

    Args:
        data: a DataFrame, shards, their path, or None.
        spark: the session.
        feed: which way; ``"auto"`` chooses.
        streams: whether it may be streamed.
        what: is being fed, for people.

    Raises:
        ConfigurationError: it is none of these, the feed does not fit, or there is no folder to write to.
        DataError: the shards are damaged, or rows cannot be written.
    """
    from sparkgap.shards.dataset import Shards, open_shards

    if feed not in FEEDS:
        raise ConfigurationError(f"feed={feed!r}: one of {', '.join(map(repr, FEEDS))}.")
    if data is None:
        yield Source("", "")
    elif isinstance(data, Shards | str | Path):
        if feed in ("stream", "broadcast"):
            raise ConfigurationError(f"feed={feed!r} takes a DataFrame, and data is shards, which workers read themselves.")
        yield Source("shards", "the data is shards", shards=data if isinstance(data, Shards) else open_shards(data))
    else:
        source = _chosen(data, spark, feed, streams=streams)
        _log.info("%s: feed=%r: %s.", what, source.feed, source.why)
        if source.feed != "shards":
            yield source
            return
        folder = _folder(spark)
        try:
            yield Source("shards", source.why, shards=_written(data, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _chosen(df: DataFrame, spark: SparkSession, feed: Feed, *, streams: bool) -> Source:
    """Return the way; for ``"shards"`` nothing is written yet."""
    if feed == "stream":
        return Source("stream", "asked for", stream=rows_of_stream(df))
    if feed == "broadcast":
        return Source("broadcast", "asked for", folder=_collected(df, MOST_BYTES))
    if feed == "shards":
        return Source("shards", "asked for")
    size, small = plan_bytes(df), size_of(SMALL, _spark.conf(spark, SMALL, SMALL_BYTES))
    known = "Spark's plan does not tell its size" if size is None else f"Spark's plan says {size:,} bytes"
    if size is not None and size <= small:
        try:
            return Source("broadcast", f"{known}, and {small:,} are small", folder=_collected(df, small))
        except TooLarge:
            known += f", but it has more than {small:,}"
    elif size is not None:
        known += f", and {small:,} are small"
    if can_write(spark) or not streams:
        return Source("shards", known)
    return Source("stream", f"{known}, and {FOLDER} names no folder for shards", stream=rows_of_stream(df))


def _collected(df: DataFrame, limit: int) -> Path:
    try:
        return collected(df, rows_of_stream(df).fields, limit)
    except TooLarge as error:
        if limit < MOST_BYTES:
            raise
        raise ConfigurationError(
            f'feed="broadcast" collects the DataFrame on the driver. {error.args[0]} Raise spark.driver.maxResultSize where '
            'that is less, or use feed="shards" or feed="stream".'
        ) from error


def _written(df: DataFrame, folder: str) -> Shards:
    from sparkgap.shards.write import write_shards

    return write_shards(df, folder, overwrite=True)


def can_write(spark: SparkSession) -> bool:
    """Whether a folder is known that all machines see."""
    return bool(_spark.conf(spark, FOLDER, "")) or _spark.conf(spark, "spark.master", "").startswith("local")


def _folder(spark: SparkSession) -> str:
    """Return a new folder for a DataFrame's shards.

    Raises:
        ConfigurationError: none is known to be seen by all machines.
    """
    if not can_write(spark):
        raise ConfigurationError(
            "A DataFrame that is written as shards needs a folder for them that all machines share. Set "
            f'{FOLDER}, write them yourself: gap.train(fn, gap.write_shards(df, path)), or use feed="stream".'
        )
    return tempfile.mkdtemp(prefix="sparkgap-shards-", dir=_spark.conf(spark, FOLDER, "") or None)
