"""What a child prints, cut at the markers between its items: lines for people, and the end of it for each item. Pure."""

from __future__ import annotations

from collections import deque

MAX_LINE = 4000


class Output:
    """The printed bytes of one child.

    Args:
        marker: what the child writes after each item.
        limit: how many bytes to keep for each item.
    """

    def __init__(self, marker: bytes, limit: int) -> None:
        self._marker = marker
        self._limit = limit
        self._held = b""
        self._tail = bytearray()
        self._line = b""
        self._lines: list[str] = []
        self._finished: deque[str] = deque()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come from the pipe."""
        *done, rest = (self._held + data).split(self._marker)
        for part in done:
            self._text(part)
            self._finish()
        kept = len(rest) - self._begun(rest)
        self._text(rest[:kept])
        self._held = rest[kept:]

    def lines(self) -> list[str]:
        """Take the lines that were printed since the last call."""
        lines, self._lines = self._lines, []
        return lines

    @property
    def finished(self) -> bool:
        """Whether the whole output of the next item is there."""
        return bool(self._finished)

    def take(self) -> str:
        """Take the end of what the next item has printed; of an unfinished one, what there is."""
        if not self._finished:
            self._text(self._held)
            self._held = b""
            self._finish()
        return self._finished.popleft()

    def _begun(self, rest: bytes) -> int:
        """Return how many bytes at the end may be the first half of a marker."""
        longest = min(len(self._marker) - 1, len(rest))
        return next((n for n in range(longest, 0, -1) if rest.endswith(self._marker[:n])), 0)

    def _text(self, text: bytes) -> None:
        if not text:
            return
        self._tail += text
        if len(self._tail) > 2 * self._limit:
            del self._tail[: -self._limit or None]
        *lines, self._line = (self._line + text).split(b"\n")
        self._lines += [_decode(line) for line in lines]
        if len(self._line) > MAX_LINE:
            self._cut()

    def _finish(self) -> None:
        self._finished.append(_decode(bytes(self._tail[-self._limit :])) if self._tail and self._limit else "")
        self._tail.clear()
        if self._line:
            self._cut()

    def _cut(self) -> None:
        self._lines.append(_decode(self._line))
        self._line = b""


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")
