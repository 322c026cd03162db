"""The endings of some items, as one message from a slot to the driver: columns, and the values behind each other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from sparkgap.scheduled.bench import Ended
from sparkgap.scheduled.outcome import Ending

_NUMBERS = ("items", "kinds", "seconds", "started", "rss", "sizes")


class Report:
    """Endings that wait to be sent."""

    def __init__(self) -> None:
        self._since = 0.0
        self._clear()

    def __bool__(self) -> bool:
        return bool(self._items)

    def _clear(self) -> None:
        self._items: list[int] = []
        self._kinds: list[str] = []
        self._seconds: list[float] = []
        self._started: list[float] = []
        self._rss: list[int] = []
        self._values: list[bytes] = []
        self._more: dict[str, dict[str, Any]] = {}

    def add(self, item: int, ended: Ended) -> None:
        """Take one."""
        if not self._items:
            self._since = time.monotonic()
        if ended.kind != "ok" or ended.output:
            texts = {name: getattr(ended, name) for name in ("error", "message", "traceback", "output")}
            self._more[str(len(self._items))] = {
                "texts": {k: t for k, t in texts.items() if t}, "exit": ended.exit_code, "signal": ended.signal,
            }  # fmt: skip
        self._items.append(item)
        self._kinds.append(ended.kind)
        self._seconds.append(ended.seconds)
        self._started.append(ended.started)
        self._rss.append(ended.peak_rss)
        self._values.append(ended.value)

    def left(self, seconds: float) -> float | None:
        """Return how long the oldest may still wait, if `seconds` in all; None where there is none."""
        return max(0.0, self._since + seconds - time.monotonic()) if self._items else None

    def take(self) -> tuple[dict[str, Any], bytes]:
        """Return header and payload of all that waits, and forget it."""
        header = {
            "items": self._items, "kinds": self._kinds, "seconds": self._seconds, "started": self._started, "rss": self._rss,
            "sizes": [len(v) for v in self._values], "more": self._more,
        }  # fmt: skip
        payload = b"".join(self._values)
        self._clear()
        return header, payload


def endings(header: Mapping[str, Any], payload: memoryview, host: str) -> Iterator[tuple[int, Ending]]:
    """Give item and ending of each part of such a message from a host; `Ending.attempts` is not known here.

    Raises:
        KeyError, ValueError: it is not such a message.
    """
    start = 0
    more = header["more"]
    columns = zip(*(header[name] for name in _NUMBERS), strict=True)
    for place, (item, kind, seconds, started, rss, size) in enumerate(columns):
        extra = more.get(str(place)) if more else None
        value = bytes(payload[start : start + size])
        start += size
        if extra is None:
            yield item, Ending(kind, value, 1, seconds, started, rss, None, None, host)
        else:
            yield item, Ending(kind, value, 1, seconds, started, rss, extra["exit"], extra["signal"], host, extra["texts"])
