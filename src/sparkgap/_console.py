"""How the command line talks: plain errors, exit codes, and Spark's own chatter kept in a file."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sparkgap._errors import ConfigurationError, MissingDependencyError, SparkGapError, UntrustedModelError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_USAGE_ERRORS = (ConfigurationError, MissingDependencyError, UntrustedModelError)
_TRACEBACK = "Traceback (most recent call last)"
# The line of a traceback that tells the exception begins at the margin with its dotted name.
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?::|$)", re.MULTILINE)
_OURS = re.compile(r"^sparkgap\.(?:\w+\.)*\w+: ", re.MULTILINE)
_JVM_PART = re.compile(r"^(?:\s+at [\w.$/]+\(|JVM stacktrace:|Driver stacktrace:|Caused by: )", re.MULTILINE)


def exit_code(error: BaseException) -> int:
    """2 where the call itself was wrong, 130 where it was interrupted, else 1."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, _USAGE_ERRORS) else FAILED


def plain(error: BaseException) -> str:
    """Say an error in a few lines: our own message, also where it comes inside Spark's."""
    if isinstance(error, SparkGapError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    text = str(error).strip()
    if _TRACEBACK in text:
        return from_traceback(text)
    if type(error).__module__.startswith("pyspark."):
        return _JVM_PART.split(text, maxsplit=1)[0].strip() or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def from_traceback(text: str) -> str:
    """Return what the last exception of a Python traceback says, without the traceback.

    Of sparkgap's own exceptions only the message stays: it says everything.
    """
    ours = list(_OURS.finditer(text))
    if ours:
        return _JVM_PART.split(text[ours[-1].end() :], maxsplit=1)[0].strip()
    last = _JVM_PART.split(text.rpartition(_TRACEBACK)[2], maxsplit=1)[0]
    raised = _RAISED.search(last)
    return text if raised is None else last[raised.start() :].strip()


@contextlib.contextmanager
def spark_log(verbose: bool) -> Iterator[Path | None]:
    """Send what the JVM writes on stderr to a file, so that the terminal shows only what sparkgap says.

    The JVM inherits descriptor 2 at its launch and keeps it, so this must be around the start of the session.
    Python's own `sys.stderr` goes on to the terminal. With `verbose` nothing is redirected.
    """
    if verbose:
        yield None
        return
    handle, name = tempfile.mkstemp(prefix="sparkgap-", suffix=".log")
    terminal = os.dup(2)
    before = sys.stderr
    sys.stderr.flush()
    os.dup2(handle, 2)
    os.close(handle)
    if before is sys.__stderr__:
        sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, errors="backslashreplace")
    try:
        yield Path(name)
    finally:
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(terminal, 2)
        os.close(terminal)
