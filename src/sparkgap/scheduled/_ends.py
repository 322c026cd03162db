"""The bench's ends of the pipes of one child."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NamedTuple

from sparkgap.scheduled import _processes
from sparkgap.scheduled._output import Output
from sparkgap.scheduled._records import ANSWER, HELLO, LEASE, MARKER_BYTES, RECORD

_CHUNK = 1 << 20


class Record(NamedTuple):
    """A record as the child wrote it; see `_records.RECORD`."""

    kind: int
    position: int
    started: float
    ended: float
    seconds: float
    peak_rss: int
    payload: bytes


class Ends:
    """What the bench holds of one child: a socket to it, its records, its output.

    Args:
        options: for the child, JSON values.
        function: pickled.
        output_bytes: of the output, kept for each item.

    Attributes:
        pid: of the child; 0 until the zygote has told.
        oom_kills: of the container when the child began.
        dry: the last `records` found nothing, but there may come more.
        over: the last `records` found the end of file.
    """

    def __init__(self, options: dict[str, Any], function: bytes, output_bytes: int) -> None:
        marker = os.urandom(MARKER_BYTES)
        self.pid = 0
        self.dry = self.over = False
        self.oom_kills = _processes.kills_for_memory()
        self.output = Output(marker, output_bytes)
        self.control, self._control = socket.socketpair()
        self.results, self._results = os.pipe()
        self.printed, self._printed = os.pipe()
        self.control.setblocking(False)
        os.set_blocking(self.results, False)
        os.set_blocking(self.printed, False)
        raw = json.dumps({**options, "marker": marker.hex()}).encode()
        self._outbox = [memoryview(part) for part in (HELLO.pack(len(raw), len(function)), raw, function) if part]
        self._rest = bytearray()
        self._needed = RECORD.size

    def lent(self, tokens: int) -> tuple[int, int, int, int]:
        """The descriptors that the child gets."""
        return self._control.fileno(), self._results, tokens, self._printed

    def lent_closed(self) -> None:
        """Close the child's ends, which it has now: else there is no end of file."""
        self._control.close()
        os.close(self._results)
        os.close(self._printed)

    def lease(self, start: int, count: int, items: bytes) -> None:
        """Send items, from position `start` on, as far as the socket takes them at once."""
        self._outbox += [memoryview(LEASE.pack(start, count, len(items))), memoryview(items)]
        self.flush()

    def answer(self, answer: bytes) -> None:
        """Send the answer to a question."""
        self._outbox += [memoryview(LEASE.pack(ANSWER, 0, len(answer))), memoryview(answer)]
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._outbox)

    def flush(self) -> None:
        """Send what waits without blocking; nothing happens if the child has gone, which is noticed elsewhere."""
        try:
            while self._outbox:
                first = self._outbox[0]
                count = self.control.send(first)
                self._outbox[:1] = [first[count:]] if count < len(first) else []
        except BlockingIOError:
            return
        except ConnectionError:
            self._outbox.clear()

    def records(self) -> list[Record]:
        """Read what is there, up to a megabyte; sets `dry` and `over`."""
        data = _read(self.results)
        self.dry, self.over = data is None, data == b""
        if not data:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:  # a large value comes in thousands of pieces: look at it once, when it is whole
                return []
            data = bytes(self._rest)
            self._rest.clear()  # a value may be a quarter of a gigabyte
        records, at = [], 0
        self._needed = RECORD.size
        while at + RECORD.size <= len(data):
            kind, position, size, started, ended, seconds, peak = RECORD.unpack_from(data, at)
            end = at + RECORD.size + size
            if end > len(data):
                self._needed = end - at
                break
            records.append(Record(kind, position, started, ended, seconds, peak, data[end - size : end]))
            at = end
        self._rest = bytearray(data[at:])
        return records

    def read_output(self) -> bool:
        """Read what was printed; False if nothing was there."""
        data = _read(self.printed)
        if data:
            self.output.feed(data)
        return bool(data)

    def take_output(self) -> str:
        """Take the output of the next item, whose marker is in the pipe already; of an unfinished one, what there is."""
        while not self.output.finished and self.read_output():
            continue
        return self.output.take()

    def close(self) -> None:
        """Close everything."""
        self.control.close()
        os.close(self.results)
        os.close(self.printed)


def _read(descriptor: int) -> bytes | None:
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None
