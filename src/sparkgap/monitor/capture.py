"""`logging` and `print` of a task, on their way to the driver besides where they go anyway."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from sparkgap.monitor import events
from sparkgap.monitor.reporter import Attempted

MAX_LINE = 4000


@contextmanager
def captured(begun: Attempted) -> Iterator[None]:
    """Send what is logged (from INFO on) and printed within the block to the driver as well."""
    handler = _Handler(begun)
    root = logging.getLogger()
    level = root.level
    out, err = sys.stdout, sys.stderr
    root.addHandler(handler)
    if level == logging.WARNING:  # Python's default, nobody's choice: INFO is what people write progress with
        root.setLevel(logging.INFO)
    sys.stdout, sys.stderr = _Tee(out, begun, "stdout"), _Tee(err, begun, "stderr")
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = out, err
        root.removeHandler(handler)
        root.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, begun: Attempted) -> None:
        super().__init__(logging.INFO)
        self._begun = begun

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._begun.say(_line(self._begun, record.levelname, record.name, self.format(record), record.created))
        except Exception:  # as all handlers do: a record that cannot be formatted
            self.handleError(record)


class _Tee:
    """A stream that writes through, and sends whole lines.

    Args:
        stream: what was there before; everything but `write` is its own.
        begun: the attempt that prints.
        name: ``"stdout"`` or ``"stderr"``.
    """

    def __init__(self, stream: TextIO, begun: Attempted, name: str) -> None:
        self._stream = stream
        self._begun = begun
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
            self._begun.say(_line(self._begun, "PRINT", self._name, text, time.time()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _line(begun: Attempted, level: str, logger: str, text: str, at: float) -> events.Log:
    cut = text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"
    return events.Log(run=begun.run, time=at, task=begun.task, level=level, logger=logger, text=cut)
