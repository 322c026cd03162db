"""The executor's side of the joblib backend: runs one batch of calls, and carries what it raised to the driver."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joblib.parallel import ThreadingBackend

from sparkgap._errors import TaskError
from sparkgap.scheduled import _told

MAX_TEXT = 64_000
"""Characters of a traceback that are kept: its end."""


class TaskThreads(ThreadingBackend):  # type: ignore[misc]  # joblib has no types
    """What `Parallel` uses inside a task: threads, no more than the task has cores; with one core none.

    Args:
        cpus: cores of the task.
        nesting_level: of joblib.
    """

    def __init__(self, cpus: int = 1, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        self._cpus = cpus

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many threads there will be."""
        return min(int(super().effective_n_jobs(n_jobs)), self._cpus)


@dataclass(frozen=True)
class Raised:
    """What stands for the results of a batch of which a call raised.

    Args:
        pickled: the exception; b"" where it cannot be pickled.
        name: of its type.
        message: its text.
        traceback: as text.
    """

    pickled: bytes
    name: str
    message: str
    traceback: str

    def error(self, index: int) -> BaseException:
        """Return the exception itself, with a `TaskError` as its cause that has the traceback; else only that. Driver side.

        Args:
            index: number of the batch.
        """
        told = TaskError(f"Batch {index}: {self.name}: {self.message}", index, "exception", self.name, self.traceback)
        try:
            found = pickle.loads(self.pickled)
        except Exception:  # of any class: what it takes to rebuild an exception is the user's; all of it is told all the same
            return told
        if not isinstance(found, BaseException):
            return told
        found.__cause__ = told
        return found


def run_batch(batch: Callable[[], list[Any]]) -> list[Any] | Raised:
    """Run the calls of one batch of joblib. In the task's process, on an executor."""
    try:
        return batch()
    except Exception as error:  # of any class: the caller of Parallel gets it
        text = "".join(traceback.format_exception(error))[-MAX_TEXT:]
        return Raised(_pickled(error), _told.name(type(error)), _told.message(error), text)


def _pickled(error: Exception) -> bytes:
    from pyspark import cloudpickle

    try:
        made: bytes = cloudpickle.dumps(error)
    except Exception:  # of any class: it goes as text then
        return b""
    return made
