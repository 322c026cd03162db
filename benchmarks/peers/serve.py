"""The side of a peer: does a round whenever a line comes in, and says when it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def serve(run: Callable[[], None], answer: Callable[[], pa.Table]) -> None:
    """Obey `run` and `answer PATH` on the standard input until it ends; reply with one line each.

    Args:
        run: does the work once and drops the results.
        answer: does the work once and returns the columns `key` and `y`.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not among the replies
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        if word == "run":
            run()
        else:
            pq.write_table(answer(), Path(path))
        print("done", file=replies, flush=True)
