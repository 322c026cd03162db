"""The process that forks children: `python -m sparkgap.scheduled.zygote FD PRELOAD`, on an executor.

It is clean (no framework but those of PRELOAD, a comma-separated list) and has a single thread, so a fork of it costs
milliseconds and can hang on no lock. NumPy is there where it may not start threads: nearly every item needs it. It serves
one bench at a time and has one child at a time. It adopts all processes that the child leaves behind and kills them when
the child is gone; when the socket FD ends, it kills everything and ends too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import types
from typing import Any

from sparkgap.scheduled import _processes, child
from sparkgap.scheduled._records import END, FORKED, GONE, ZYGOTE_ANSWER, ZYGOTE_REQUEST

_DESCRIPTORS = 4  # of a fork: control, results, tokens, output
_KIB = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def main(arguments: list[str]) -> None:
    """Serve until the socket ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    _processes.adopt_orphans()
    complaints = [text for name in arguments[1].split(",") if name and (text := _complaint(name))]
    if os.environ.get("OPENBLAS_NUM_THREADS") == "1":
        importlib.import_module("numpy")
    gc.collect()
    gc.freeze()  # a collection in a child must not copy the pages that it shares with this process
    Zygote(socket.socket(fileno=int(arguments[0])), complaints).serve()


def _complaint(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # the items may not need it; if they do, they say so themselves
        return f"sparkgap: the module {name!r} of `preload` could not be imported: {type(error).__name__}: {error}"
    return ""


class Zygote:
    """The loop of the process.

    Args:
        control: the bench's requests.
        complaints: lines that each child prints first.
    """

    def __init__(self, control: socket.socket, complaints: list[str]) -> None:
        self._control = control
        self._complaints = complaints
        self._child = 0
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)

    def serve(self) -> None:
        """Answer requests and reap what dies."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored, it would not write to the pipe
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._control.fileno():
                    self._answer()
                else:
                    os.read(self._woken, 4096)
            try:
                self._reap()
            except ConnectionError:
                self._leave()

    def _answer(self) -> None:
        try:
            header, descriptors, _, _ = socket.recv_fds(self._control, ZYGOTE_REQUEST.size, _DESCRIPTORS, socket.MSG_WAITALL)
            if not header:
                self._leave()
            kind, size = ZYGOTE_REQUEST.unpack(header)
            if kind == END:
                if self._child:
                    _processes.kill(self._child)
                return
            self._fork(json.loads(child.receive(self._control, size)), descriptors)
        except (ConnectionError, EOFError):
            self._leave()

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(request, descriptors, me)
        self._child = pid
        for descriptor in descriptors:
            os.close(descriptor)
        self._control.sendall(ZYGOTE_ANSWER.pack(FORKED, pid, 0))

    def _become(self, request: dict[str, Any], descriptors: list[int], parent: int) -> None:
        """Turn this forked copy into a child; never returns."""
        try:
            os.setsid()
            _processes.die_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._control.close()
            os.close(self._woken)
            os.close(self._wakes)
            sys.modules["__main__"] = types.ModuleType("__main__")  # what users name there must not meet our names
            child.main(request, self._complaints, *descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # nobody is left
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._child:
                    self._child = 0
                    _processes.kill(pid)  # the rest of its group
                    self._clear()
                    self._control.sendall(ZYGOTE_ANSWER.pack(GONE, status, usage.ru_maxrss * _KIB))

    def _clear(self) -> None:
        """Kill what the child has left, however deep; returns when it is gone."""
        with contextlib.suppress(ChildProcessError):  # nobody is left: what a subreaper has below it, it has as children
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    for below in _processes.descendants(os.getpid()):
                        _processes.kill(below)
                    os.waitpid(-1, 0)

    def _leave(self) -> None:
        if self._child:
            _processes.kill(self._child)
            os.waitpid(self._child, 0)
        self._clear()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
