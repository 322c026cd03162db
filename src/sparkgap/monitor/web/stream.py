"""Server-sent events: the list of runs and the run that is looked at, whenever they have changed."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from sparkgap.monitor.store import Store
from sparkgap.monitor.web.past import Runs
from sparkgap.monitor.web.plain import finite
from sparkgap.monitor.web.view import run_view

LOOK_SECONDS = 0.1
PUSH_SECONDS = 0.25
HEARTBEAT_SECONDS = 10.0
PAST_SECONDS = 2.0
"""How often the folder of past runs is looked at: another process may write there."""
RECENT_SECONDS = 10.0


async def changes(store: Store, runs: Runs, run: str, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """Give server-sent events until the client has gone.

    Args:
        store: whose version tells of changes.
        runs: live and past runs.
        run: the run that is looked at; "" for none.
        gone: tells whether the client has gone, or the server is to end.
    """
    look = Look(runs, run)
    version, said, looked = -1, time.monotonic(), 0.0
    while not await gone():
        now = time.monotonic()
        if store.version != version or now - looked > PAST_SECONDS:
            version, looked = store.version, now
            told, worked = await run_in_threadpool(_timed, look)
            for message in told:
                yield message
            said = time.monotonic() if told else said
            # A large run takes long to put into words: at most a fifth of a core goes into that.
            await asyncio.sleep(max(PUSH_SECONDS, 4 * worked))
        else:
            await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() - said > HEARTBEAT_SECONDS:
            said = time.monotonic()
            yield b": still here\n\n"


def _timed(look: Look) -> tuple[list[bytes], float]:
    """Return the news, and the processor time that they took: a core that others use must not make the page slow."""
    began = time.thread_time()
    return look.news(), time.thread_time() - began


class Look:
    """What one client has been told.

    Args:
        runs: live and past runs.
        run: the run that is looked at; "" for none.
    """

    def __init__(self, runs: Runs, run: str) -> None:
        self._runs = runs
        self._run = run
        self._list = b""
        self._version: int | None = None
        self._past: deque[tuple[float, int]] = deque()

    def news(self) -> list[bytes]:
        """Return what has changed since the last call. Works for some milliseconds: not for the event loop."""
        told = []
        listed = message("runs", {"runs": self._runs.lines()})
        if listed != self._list:
            self._list = listed
            told.append(listed)
        if self._run:
            version = self._runs.version(self._run)
            if version != self._version:
                self._version = version
                told.append(self._state())
        return told

    def _state(self) -> bytes:
        state = self._runs.read(self._run, run_view)
        if state is None:
            return message("absent", {"run": self._run})
        more = {"recent": self._recent(state["heard"], state["rows_out"]), "can_stop": self._runs.can_stop(self._run)}
        return message("run", state | more)

    def _recent(self, heard: float, rows: int) -> float | None:
        """Return rows a second over the last seconds that this client has looked on; None before that is known."""
        if self._past and rows < self._past[-1][1]:  # another action began, or an attempt was lost
            self._past.clear()
        self._past.append((heard, rows))
        while self._past[-1][0] - self._past[0][0] > RECENT_SECONDS:
            self._past.popleft()
        seconds = heard - self._past[0][0]
        return (rows - self._past[0][1]) / seconds if seconds >= 1 else None


def message(event: str, data: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return f"event: {event}\ndata: {json.dumps(finite(data), separators=(',', ':'), allow_nan=False)}\n\n".encode()
