"""`logging` and `print` of a task, on their way to the driver besides where they go anyway."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sparkgap.monitor import events, reporter

MAX_LINE = 4000


@contextmanager
def captured() -> Iterator[None]:
    """Send what is logged (from INFO on) and printed within the block to the driver as well, for the attempt at hand.

    Blocks may overlap, in any order of their ends, as the runs of one task do: the first one installs what the last one
    takes away.
    """
    global _blocks, _installed
    _blocks += 1
    if _installed is None:
        _installed = _Installed()
    try:
        yield
    finally:
        _blocks -= 1
        _installed.flush()
        if not _blocks:
            _installed.take_away()
            _installed = None


class _Installed:
    """The handler and the two streams in place, and what was there before."""

    def __init__(self) -> None:
        root = logging.getLogger()
        self._handler, self._level = _Handler(logging.INFO), root.level
        self._out, self._err = sys.stdout, sys.stderr
        root.addHandler(self._handler)
        if root.level == logging.WARNING:  # Python's default, nobody's choice: INFO is what people write progress with
            root.setLevel(logging.INFO)
        sys.stdout = self._new_out = _Tee(self._out, "stdout")
        sys.stderr = self._new_err = _Tee(self._err, "stderr")

    def flush(self) -> None:
        self._new_out.flush()
        self._new_err.flush()

    def take_away(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level)
        if sys.stdout is self._new_out:  # else somebody has put another one in its place, and keeps it
            sys.stdout = self._out
        if sys.stderr is self._new_err:
            sys.stderr = self._err


_blocks = 0
_installed: _Installed | None = None


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(record.levelname, record.name, self.format(record), record.created)
        except Exception:  # as all handlers do: a record that cannot be formatted
            self.handleError(record)


class _Tee:
    """A stream that writes through, and sends whole lines.

    Args:
        stream: what was there before; everything but `write` is its own.
        name: ``"stdout"`` or ``"stderr"``.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._rest = ""

    def write(self, text: str) -> int:
        """Write `text`; see `io.TextIOBase.write`."""
        count = self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._say(line)
        if len(self._rest) > MAX_LINE:
            self._say(self._rest)
            self._rest = ""
        return count

    def flush(self) -> None:
        """Flush the stream; what is printed of a line so far is sent."""
        self._stream.flush()
        self._say(self._rest)
        self._rest = ""

    def _say(self, line: str) -> None:
        text = line.rsplit("\r", 1)[-1]  # of a progress bar, its last state
        if text.strip():
            say("PRINT", self._name, text, time.time())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(level: str, logger: str, text: str, at: float) -> None:
    """Say a line for the attempt at hand, if there is one."""
    begun = reporter.at_hand
    if begun is not None:
        cut = text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"
        begun.say(events.Log(run=begun.run, time=at, task=begun.task, level=level, logger=logger, text=cut))
