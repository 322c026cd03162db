"""Failures of a stage that Spark is about to try again: they would come again, so they are told instead. On an executor.

Spark tries a barrier stage several times, whatever made it fail. Where that was an exception of a rank, or one that hung,
the next attempt finds it noted in Spark's own folder for temporary files, which Spark removes; where there is none, the
function runs again. Each executor has such a folder, and all ranks note the same.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from sparkgap.cooperative.causes import Failure

_MAY_GO_WELL = ("signal", "lost", "absent", "cancelled")
"""Ways to fail that another attempt may not meet again."""


def note(run: str, stage: int, failure: Failure) -> None:
    """Keep a failure for the next attempt, if it is one that would come again."""
    file = _file(run, stage)
    if file is None or failure.of_a_peer or failure.kind in _MAY_GO_WELL:
        return
    new = file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(asdict(failure)))
    new.replace(file)  # in one piece: the next attempt may look already


def recall(run: str, stage: int) -> Failure | None:
    """Return the failure that ended an attempt before this one, as far as this executor knows."""
    file = _file(run, stage)
    return Failure(**json.loads(file.read_text())) if file is not None and file.exists() else None


def _file(run: str, stage: int) -> Path | None:
    folder = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return Path(folder, f"sparkgap-{run}-{stage}.failed") if folder and os.path.isdir(folder) else None
