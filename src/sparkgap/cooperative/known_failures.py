"""Exceptions of a stage that Spark is about to try again: they would come again, so they are told instead. On an executor.

Spark tries a barrier stage several times, whatever made it fail. Where a rank raised an exception, the next attempt finds it
noted in Spark's own folder for temporary files, which Spark removes; where there is none, the function runs again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from sparkgap._errors import RankError
from sparkgap.cooperative.causes import Failure


def note(run: str, stage: int, failure: Failure, error: RankError) -> None:
    """Keep an error for the next attempt, if it is one that would come again."""
    file = _file(run, stage)
    if file is None or failure.kind != "exception" or failure.of_a_peer:
        return
    new = file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps([error.message, error.rank, error.kind, error.error, error.traceback]))
    new.replace(file)  # in one piece: the next attempt may look already


def recall(run: str, stage: int) -> None:
    """Raise the error that ended an attempt before this one.

    Raises:
        RankError: there is one.
    """
    file = _file(run, stage)
    if file is not None and file.exists():
        raise RankError(*json.loads(file.read_text()))


def _file(run: str, stage: int) -> Path | None:
    folder = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return Path(folder, f"sparkgap-{run}-{stage}.failed") if folder and os.path.isdir(folder) else None
