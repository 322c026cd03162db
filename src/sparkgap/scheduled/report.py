"""The endings of some items, as one message from a slot to the driver: columns of numbers, then the values one by one.

The payload begins with a column after the other, 8 bytes a number, little-endian: items, seconds, started, peak RSS, sizes
of the values. A message holds up to thousands of items of a few microseconds each: what it costs is what they cost.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from sparkgap.scheduled.bench import Ended
from sparkgap.scheduled.outcome import Ending

_COLUMNS = "qddqq"
_BYTES = 8


class Report:
    """Endings that wait to be sent."""

    def __init__(self) -> None:
        self._since = 0.0
        self._clear()

    def __bool__(self) -> bool:
        return bool(self._values)

    def _clear(self) -> None:
        self._items, self._rss, self._sizes = array("q"), array("q"), array("q")
        self._seconds, self._started = array("d"), array("d")
        self._values: list[bytes] = []
        self._more: dict[str, dict[str, Any]] = {}

    def add(self, item: int, ended: Ended) -> None:
        """Take one."""
        _, kind, value, _, _, _, _, _, seconds, rss, output, started = ended
        if not self._values:
            self._since = time.monotonic()
        if output or kind != "ok":
            texts = {name: getattr(ended, name) for name in ("error", "message", "traceback", "output")}
            self._more[str(len(self._values))] = {
                "kind": kind, "texts": {k: t for k, t in texts.items() if t}, "exit": ended.exit_code, "signal": ended.signal,
            }  # fmt: skip
        self._items.append(item)
        self._seconds.append(seconds)
        self._started.append(started)
        self._rss.append(rss)
        self._sizes.append(len(value))
        self._values.append(value)

    def left(self, seconds: float) -> float | None:
        """Return how long the oldest may still wait, if `seconds` in all; None where there is none."""
        return max(0.0, self._since + seconds - time.monotonic()) if self._values else None

    def take(self) -> tuple[dict[str, Any], bytes]:
        """Return header and payload of all that waits, and forget it."""
        header = {"count": len(self._values), "more": self._more}
        columns = (self._items, self._seconds, self._started, self._rss, self._sizes)
        payload = b"".join([*(_swapped(c).tobytes() for c in columns), *self._values])
        self._clear()
        return header, payload


class Columns:
    """Such a message, read.

    Args:
        header: of the message.
        payload: likewise.

    Attributes:
        items: numbers of the items.
        seconds: how long each took.
        started: when, in seconds since 1970.
        rss: peak resident memory, in bytes.
        plain: whether all have a value, and nothing was printed.

    Raises:
        KeyError, ValueError: it is not such a message.
    """

    def __init__(self, header: Mapping[str, Any], payload: memoryview) -> None:
        size = header["count"] * _BYTES
        columns: list[array[Any]] = []
        for place, kind in enumerate(_COLUMNS):
            column: array[Any] = array(kind)
            column.frombytes(payload[place * size : (place + 1) * size])
            columns.append(_swapped(column))
        self.items, self.seconds, self.started, self.rss, self._sizes = columns
        self._values = payload[len(_COLUMNS) * size :]
        if len(self.items) != header["count"] or len(self._values) != sum(self._sizes):
            raise ValueError(f"a report of {header['count']} items whose parts do not fit its length")
        self._more = header["more"]
        self.plain = not self._more

    def values(self) -> Iterator[bytes]:
        """Give the values, pickled."""
        start, whole = 0, bytes(self._values)
        for size in self._sizes:
            yield whole[start : start + size]
            start += size

    def endings(self, host: str) -> Iterator[tuple[int, Ending]]:
        """Give item and ending of each, on a host; `Ending.attempts` is not known here."""
        told = zip(self.items, self.values(), self.seconds, self.started, self.rss, strict=True)
        for place, (item, value, seconds, started, rss) in enumerate(told):
            extra = self._more.get(str(place))
            if extra is None:
                yield item, Ending("ok", value, 1, seconds, started, rss, None, None, host)
                continue
            code, signal, texts = extra["exit"], extra["signal"], extra["texts"]
            yield item, Ending(extra["kind"], value, 1, seconds, started, rss, code, signal, host, texts)


def _swapped(column: array[Any]) -> array[Any]:
    """Return numbers of this machine's byte order as little-endian ones, and back."""
    if sys.byteorder == "big":
        column.byteswap()
    return column
