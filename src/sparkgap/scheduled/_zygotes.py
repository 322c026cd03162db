"""The zygotes of this process: started when first needed, lent to one bench at a time, kept until this process ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sparkgap._errors import ModelProcessError
from sparkgap.devices.assign import gpu_environment
from sparkgap.scheduled import _processes
from sparkgap.scheduled._records import END, FORK, ZYGOTE_ANSWER, ZYGOTE_REQUEST

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_END_SECONDS = 5.0

_Key = tuple[tuple[str, ...], int]
_lock = threading.Lock()
_free: defaultdict[_Key, list[Zygote]] = defaultdict(list)


class Answer(NamedTuple):
    """What a zygote tells: `FORKED` and a process id, or `GONE`, a wait status and the peak RSS in bytes."""

    kind: bytes
    number: int
    peak_rss: int


class Zygote:
    """The bench's side of one zygote.

    Args:
        preload: modules to import before it forks.
        threads: how many threads numeric libraries may start.
    """

    def __init__(self, preload: tuple[str, ...], threads: int) -> None:
        self.key = (preload, threads)
        self.alive = True
        self.answered = False
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sparkgap.scheduled.zygote", str(theirs.fileno()), ",".join(preload)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # without the safe path, a file of the working directory may stand for a module of Python's
                env={**_environment(threads), "PYTHONPATH": os.pathsep.join(_path()), "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # what is sent to the worker's group is not for the zygote: it sees the socket end
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Descriptor that becomes readable when there is an answer, or when the zygote has died."""
        return self._socket.fileno()

    def fork(self, descriptors: Sequence[int]) -> None:
        """Ask for a child with this process's path, folder, environment and GPUs; where that fails, `alive` is False."""
        request = {"path": _path(), "cwd": os.getcwd(), "environment": _environment(self.key[1]) | gpu_environment()}
        body = json.dumps(request).encode()
        try:
            socket.send_fds(self._socket, [ZYGOTE_REQUEST.pack(FORK, len(body))], list(descriptors))
            self._socket.sendall(body)
        except ConnectionError:
            self.alive = False

    def receive(self) -> Answer | None:
        """Wait for the next answer; None if the zygote has died."""
        try:
            raw = self._socket.recv(ZYGOTE_ANSWER.size, socket.MSG_WAITALL)
        except ConnectionError:
            raw = b""
        if len(raw) != ZYGOTE_ANSWER.size:
            self.alive = False
            return None
        self.answered = True
        return Answer(*ZYGOTE_ANSWER.unpack(raw))

    def end(self) -> None:
        """Ask it to kill the child and all below it; the answer is `GONE`, unless that is on its way already."""
        try:
            self._socket.sendall(ZYGOTE_REQUEST.pack(END, 0))
        except ConnectionError:
            self.alive = False

    def ready(self, seconds: float) -> bool:
        """Wait for an answer (or its death); False if there is none in time."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def abandon(self) -> None:
        """Kill it while it still imports; `close` is to follow."""
        self.alive = False
        for pid in [*_processes.descendants(self.pid), self.pid]:
            _processes.kill(pid)

    def close(self) -> int:
        """End it, with everything below it, and return its exit status (negative: a signal)."""
        self._socket.close()
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for a process that does not die, or imports
            self.abandon()
            return self._process.wait(_END_SECONDS)

    def forget(self) -> None:
        """Close this copy of the socket, in a fork of the process that owns the zygote."""
        self._socket.close()
        self._process.returncode = 0  # not this process's child: nothing to wait for


def take(preload: tuple[str, ...], threads: int) -> Zygote:
    """Return a zygote that nobody uses.

    Raises:
        ModelProcessError: it cannot be started.
    """
    with _lock:
        free = _free[preload, threads]
        while free:
            zygote = free.pop()
            if not zygote.ready(0):  # an idle one has nothing to say but that it has died
                return zygote
            zygote.close()
    try:
        return Zygote(preload, threads)
    except OSError as error:
        raise ModelProcessError(f"The process that forks the items' processes could not be started: {error}.") from error


def give_back(zygote: Zygote) -> None:
    """Keep a zygote for the next bench; it has no child."""
    if not zygote.alive:
        zygote.close()
        return
    with _lock:
        _free[zygote.key].append(zygote)


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, **dict.fromkeys(_THREADS, str(threads))}


def _path() -> list[str]:
    return [p or os.getcwd() for p in sys.path]


def _forget_all() -> None:
    """Leave the parent's zygotes to the parent: as long as a fork holds their sockets they see no end."""
    global _lock
    _lock = threading.Lock()
    for zygotes in _free.values():
        for zygote in zygotes:
            with contextlib.suppress(OSError):
                zygote.forget()
    _free.clear()


os.register_at_fork(after_in_child=_forget_all)
