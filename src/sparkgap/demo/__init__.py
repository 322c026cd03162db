"""The demo: three real models over three real tables, one page that shows what came out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.demo.digits import DigitsResult
    from sparkgap.demo.photos import PhotosResult
    from sparkgap.demo.sentences import SentencesResult

__all__ = ["DemoResult", "run"]


@dataclass(frozen=True)
class DemoResult:
    """What the demo did.

    Args:
        page: the HTML page.
        photos: photographs through EfficientNet-Lite0.
        digits: handwritten digits through a small convolutional network.
        sentences: sentences through MiniLM.
        seconds: wall time of everything.
        started: whether Spark's start is in it; it is not where a session was active already.
    """

    page: Path
    photos: PhotosResult
    digits: DigitsResult
    sentences: SentencesResult
    seconds: float
    started: bool


def run(output: Path, *, master: str | None = None) -> DemoResult:
    """Run the demo and write its results. Driver side; takes under a minute on two cores.

    The models and the data come out of installed packages; nothing is downloaded. An active Spark session is used
    and left running; where there is none, one is started and stopped.

    Args:
        output: folder for the results; made where it is absent. Gets ``photos/`` (the photographs as files),
            ``*.parquet`` (one folder a table) and ``index.html``.
        master: Spark master or Spark Connect URL for the session that is started; default: this machine's cores.

    Raises:
        MissingDependencyError: a package that carries a model or data is absent; says what to install.
    """
    from sparkgap.demo import digits, packages, page, photos, sentences, talk

    start = time.perf_counter()
    packages.check()
    output = Path(output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    console = talk.console()
    talk.welcome(console, output)
    with _session(master) as (spark, ours):
        talk.session(console, spark, time.perf_counter() - start if ours else None)
        talk.photos(console, shown := photos.run(spark, output))
        talk.digits(console, read := digits.run(spark, output))
        talk.sentences(console, found := sentences.run(spark, output))
    result = DemoResult(output / "index.html", shown, read, found, time.perf_counter() - start, ours)
    result.page.write_text(page.render(result), encoding="utf-8")
    talk.farewell(console, result)
    return result


@contextmanager
def _session(master: str | None) -> Iterator[tuple[SparkSession, bool]]:
    """Lend the active session, or one of our own that stops at the end; say whether it is ours."""
    from sparkgap import SessionError, session
    from sparkgap._spark import active_session

    try:
        active_session()
        ours = False
    except SessionError:
        ours = True
    spark = session(master)
    try:
        yield spark, ours
    finally:
        if ours:
            spark.stop()
