"""The exceptions of sparkgap: one tree, each with a stable condition name.

    SparkGapError
    ├── ConfigurationError (ValueError)   an option or a call is wrong; nothing ran
    │   └── SignatureError                columns and tensors do not fit each other
    ├── SessionError (RuntimeError)       no session, no Java, too few slots
    ├── MissingDependencyError (ImportError)  an optional package is absent or broken
    ├── ModelError (RuntimeError)         something about a model
    │   ├── ModelFormatError              not recognised, unreadable or truncated
    │   ├── UntrustedModelError           the file could run code, and `trust=True` was not given
    │   └── ModelOutputError              `predict` returned something that is not a block of tensors
    ├── DataError (RuntimeError)          something about the data, seen while running
    │   ├── RowError                      one row could not be decoded or scored; says which
    │   └── FileChangedError              a file is not what it was when the work was planned
    ├── ModelProcessError (RuntimeError)  the process that runs a model died or did not answer
    ├── TaskError (RuntimeError)          an item of `gap.run` has no value; says what happened to it
    └── RunError (RuntimeError)           a run could not go on, whatever its items
        ├── RunCancelledError             somebody ended it
        └── RankError                     a rank of a gang failed; says which, and what happened to it

Every message says what was wrong, what was got and what to do. All of them pickle.
"""

from __future__ import annotations

from typing import ClassVar


class SparkGapError(Exception):
    """Base of everything that sparkgap raises on purpose."""

    condition: ClassVar[str] = "SPARKGAP"


class ConfigurationError(SparkGapError, ValueError):
    """An option or a call is wrong; raised before any work starts."""

    condition = "CONFIGURATION"


class SignatureError(ConfigurationError):
    """Columns and tensors do not fit each other."""

    condition = "SIGNATURE"


class SessionError(SparkGapError, RuntimeError):
    """There is no usable Spark session, or none can be started."""

    condition = "SESSION"


class MissingDependencyError(SparkGapError, ImportError):
    """A package that this call needs is not installed, or does not import."""

    condition = "MISSING_DEPENDENCY"


class ModelError(SparkGapError, RuntimeError):
    """Something is wrong with a model."""

    condition = "MODEL"


class ModelFormatError(ModelError):
    """A model source is not recognised, is unreadable or is truncated."""

    condition = "MODEL_FORMAT"


class UntrustedModelError(ModelError):
    """A model file can run code when loaded and the caller did not vouch for it."""

    condition = "MODEL_UNTRUSTED"


class ModelOutputError(ModelError):
    """A model returned something that is not a block of tensors with one entry a row."""

    condition = "MODEL_OUTPUT"


class DataError(SparkGapError, RuntimeError):
    """Something is wrong with the data, found while running."""

    condition = "DATA"


class RowError(DataError):
    """One row could not be decoded or scored; the message says which one and why."""

    condition = "DATA_ROW"


class FileChangedError(DataError):
    """A file is missing or is not what it was when the work was planned."""

    condition = "DATA_FILE_CHANGED"


class ModelProcessError(SparkGapError, RuntimeError):
    """The child process that runs a model died or did not answer in time."""

    condition = "MODEL_PROCESS"


class TaskError(SparkGapError, RuntimeError):
    """An item of `gap.run` has no value.

    Args:
        message: what happened, for people.
        index: number of the item.
        kind: ``"exception"``, ``"timeout"``, ``"memory"``, ``"exit"``, ``"signal"``, ``"result"``, ``"lost"`` or,
            of a group, ``"max_rows"``.
        error: name of the exception's type; "" where there was none.
        traceback: of the task, as text.
    """

    condition = "TASK"

    def __init__(self, message: str, index: int = -1, kind: str = "exception", error: str = "", traceback: str = "") -> None:
        super().__init__(message, index, kind, error, traceback)
        self.message = message
        self.index = index
        self.kind = kind
        self.error = error
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n\nThe task's own traceback:\n{self.traceback}" if self.traceback else self.message


class RunError(SparkGapError, RuntimeError):
    """A run could not go on, whatever its items."""

    condition = "RUN"


class RankError(RunError):
    """A rank of a gang failed, and so all of them ended.

    Args:
        message: what happened, for people.
        rank: the one that failed first.
        kind: ``"exception"``, ``"timeout"``, ``"memory"``, ``"exit"``, ``"signal"``, ``"result"``, ``"lost"``, ``"aborted"``
            (it hung) or ``"absent"`` (it did not begin).
        error: name of the exception's type; "" where there was none.
        traceback: of the rank, as text; of one that hung, the stacks of its threads.
    """

    condition = "RANK"

    def __init__(self, message: str, rank: int = -1, kind: str = "exception", error: str = "", traceback: str = "") -> None:
        super().__init__(message, rank, kind, error, traceback)
        self.message = message
        self.rank = rank
        self.kind = kind
        self.error = error
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n\nThe rank's own traceback:\n{self.traceback}" if self.traceback else self.message


class RunCancelledError(RunError):
    """A run was cancelled, so some of its items have no outcome."""

    condition = "RUN_CANCELLED"
