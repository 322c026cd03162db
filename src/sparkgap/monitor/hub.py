"""The driver's side: receives events over TCP and from shared folders, into the store. One of each per process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sparkgap.monitor import tls, wire
from sparkgap.monitor.history import SILENT_SECONDS
from sparkgap.monitor.store import Store
from sparkgap.monitor.wire import Address

_log = logging.getLogger("sparkgap.monitor")

FOLLOW_EVERY = 0.2
"""Seconds between two looks into shared folders, which have no way to wake a reader on another machine."""
SAID_AT_MOST = 1


class Hub:
    """Listens for the events of tasks.

    Args:
        store: where they go.
        host: address to bind to.
        port: port to listen on; 0 for any free one.
        certificate: files of a TLS certificate and its key; None for plain TCP.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """

    def __init__(self, store: Store, host: str, port: int = 0, certificate: tuple[Path, Path] | None = None) -> None:
        self._store = store
        self._token = secrets.token_hex(16)
        self._pem = certificate[0].read_text() if certificate else ""
        self._complaints: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sparkgap-hub", daemon=True)
        self._thread.start()
        context = tls.server_context(certificate) if certificate else None
        try:
            self._server: asyncio.Server = self._call(asyncio.start_server(self._serve, host, port, ssl=context, backlog=512))
        except OSError:
            self._stop_loop()
            raise
        self.port: int = self._server.sockets[0].getsockname()[1]

    def address(self, host: str) -> Address:
        """Return the address for tasks that reach this process as `host`."""
        return Address(host, self.port, self._token, certificate=self._pem)

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        self._call(self._end())
        self._stop_loop()

    async def _end(self) -> None:
        self._server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(wire.TIMEOUT)

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(wire.TIMEOUT)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        senders: set[str] = set()
        try:
            if await self._admit(reader, writer):
                await self._receive(reader, writer, senders)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has gone; what that means for its tasks is noted below
        except (OSError, ValueError, TimeoutError) as error:
            self._complain(writer, "sent what is not an event", error)
        finally:
            for sender in senders:
                self._store.gone(sender)
            with contextlib.suppress(Exception):
                writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the other side knows the token; it has a few seconds to prove that."""
        nonce = secrets.token_bytes(wire.NONCE_BYTES)
        writer.write(nonce)
        given = wire.parse(await asyncio.wait_for(_frame(reader), wire.TIMEOUT))
        known = wire.authentic(self._token, nonce, str(given.get("proof")))
        writer.write(b"y" if known else b"n")
        await writer.drain()
        if not known:
            self._complain(writer, "did not know the token", None)
        return known

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, senders: set[str]) -> None:
        while True:
            sender, run, first, told = wire.parse_events(wire.parse(await _frame(reader)))
            senders.add(sender)
            last = self._store.receive(sender, run, first, told)
            writer.write(max(0, last).to_bytes(8, "big"))
            await writer.drain()

    def _complain(self, writer: asyncio.StreamWriter, what: str, error: Exception | None) -> None:
        """Say each kind of trouble once: somebody who scans ports must not fill the log."""
        self._complaints[what] += 1
        if self._complaints[what] <= SAID_AT_MOST:
            peer = (writer.get_extra_info("peername") or ("?",))[0]
            _log.warning("A connection to the monitor from %s %s%s; closed.", peer, what, f" ({error})" if error else "")


async def _frame(reader: asyncio.StreamReader) -> bytes:
    length = wire.body_length(await reader.readexactly(wire.HEADER.size))
    return await reader.readexactly(length)


class Follower:
    """Reads what executors append to the folder of a run, where they cannot reach the hub; or another process's history.

    Args:
        store: where events go.
        folder: the shared folder; a run's files are in a folder of its id.
        recent: follow also every run in which something was written in the last so many seconds; None for none.
    """

    def __init__(self, store: Store, folder: Path, recent: float | None = None) -> None:
        self._store = store
        self._folder = folder
        self._recent = recent
        self._keep = store.history is None or store.history.folder != folder
        self._runs: set[str] = set()
        self._read: dict[Path, int] = {}
        self._grown: dict[Path, float] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._warned = False
        threading.Thread(target=self._work, name="sparkgap-follower", daemon=True).start()

    def address(self) -> Address:
        """Return the address for tasks."""
        return Address("", 0, "", folder=str(self._folder))

    def follow(self, run: str) -> None:
        """Look for files of a run from now on."""
        (self._folder / run).mkdir(parents=True, exist_ok=True)
        self._runs.add(run)

    def look(self) -> None:
        """Read what is new, once."""
        with self._lock:
            if self._recent is not None:
                self._runs |= _written_since(self._folder, time.time() - self._recent)
            for run in list(self._runs):
                for path in sorted((self._folder / run).glob("*.jsonl")):
                    self._tail(path)
            for path, grown in list(self._grown.items()):
                if time.monotonic() - grown > SILENT_SECONDS:  # a file has no end that tells of a process that was killed
                    del self._grown[path]
                    self._store.gone(path.stem)

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()

    def _work(self) -> None:
        while not self._stop.wait(FOLLOW_EVERY):
            try:
                self.look()
            except OSError as error:
                if not self._warned:
                    self._warned = True
                    _log.warning("The folder of events %s cannot be read (%s).", self._folder, error)

    def _tail(self, path: Path) -> None:
        start = self._read.get(path, 0)
        if path.stat().st_size <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
        whole = text.rfind(b"\n") + 1  # the rest of a line is read when it is there
        self._read[path] = start + whole
        self._grown[path] = time.monotonic()
        for line in text[:whole].split(b"\n"):
            if line.strip():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            sender, run, first, told = wire.parse_events(wire.parse(line))
        except ValueError:
            self._store.rejected += 1
            return
        self._store.receive(sender, run, first, told, keep=self._keep)


def _written_since(folder: Path, moment: float) -> set[str]:
    return {path.parent.name for path in folder.glob("*/*.jsonl") if path.stat().st_mtime >= moment}
