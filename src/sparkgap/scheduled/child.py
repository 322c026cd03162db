"""What a child does: it runs the items of one lease after the other, in a process of its own on an executor."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import json
import os
import pickle
import platform
import resource
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pyspark import cloudpickle

from sparkgap.scheduled import _told, asking
from sparkgap.scheduled._records import (
    ANSWER,
    ASKED,
    BEGUN,
    EXCEPTION,
    EXIT,
    HELLO,
    LEASE,
    OK,
    OVER,
    RECORD,
    RESULT,
    SAID,
    write_record,
)  # fmt: skip

_KIB = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
_MAX_MESSAGE = 10_000  # characters
_MAX_TRACEBACK = 64_000
_IOLBF = 1  # C's stdio.h
_SHORT = 0.0002
"""An item of so few seconds cannot raise the peak of memory by much: the last one that was read is taken."""


def main(request: dict[str, Any], complaints: list[str], *descriptors: int) -> NoReturn:
    """Become a child: take over the surroundings of the bench's process, then work until it ends the connection.

    Args:
        request: ``path``, ``cwd`` and ``environment`` of the bench's process.
        complaints: lines to print first.
        descriptors: control socket, results, tokens and output pipe.
    """
    control, results, tokens, output = descriptors
    _surroundings(request, output)
    for line in complaints:
        print(line, file=sys.stderr)
    _reseed()
    Child(socket.socket(fileno=control), results, tokens, output).serve()


def _surroundings(request: dict[str, Any], output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    faulthandler.enable(sys.stderr)
    if sys.platform == "linux":  # C's stdout would keep what it prints to a pipe; lines must come when they are printed
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]


def _reseed() -> None:
    """Give this fork random numbers of its own; Python's `random` does so by itself."""
    for name in ("numpy.random", "torch"):
        if (module := sys.modules.get(name)) is not None:
            module.seed()


def receive(control: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes.

    Raises:
        EOFError: the other side has gone.
    """
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if not (count := control.recv_into(view)):
            raise EOFError
        view = view[count:]
    return bytes(data)


class Child:
    """The loop of the process.

    Args:
        control: leases come here.
        results: records go there.
        tokens: one byte for each item that may be begun; shared with the bench, which takes bytes to take items back.
        output: what is printed; a marker goes there after each item.
    """

    def __init__(self, control: socket.socket, results: int, tokens: int, output: int) -> None:
        self._control = control
        self._results = results
        self._tokens = tokens
        self._output = output
        self._pid = os.getpid()
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._questions = itertools.count()
        self._position = self._peak = 0
        asking.connect(self.ask)
        self._function: Callable[[Any], Any] | None = None

    def serve(self) -> NoReturn:
        """Work until the bench ends the connection."""
        try:
            options, function = (receive(self._control, n) for n in HELLO.unpack(receive(self._control, HELLO.size)))
            self._start(json.loads(options), function)
            while True:
                start, count, size = LEASE.unpack(receive(self._control, LEASE.size))
                sent = receive(self._control, size)
                if start != ANSWER:  # an answer that comes here is too late
                    self._lease(start, count, sent)
        except (EOFError, ConnectionError, BrokenPipeError):
            os._exit(0)

    def _start(self, options: dict[str, Any], function: bytes) -> None:
        self._marker = bytes.fromhex(options["marker"])
        self._fresh = options["fresh"]
        self._limit = options["result_limit"]
        self._pickled = function
        self._said = _told.listen(self._say) if options["monitored"] else list

    def ask(self, question: Mapping[str, Any], wait: bool, timeout: float) -> Any:
        """Put a question to the driver; see `asking`. Any thread of the user."""
        number = f"{self._pid}-{next(self._questions)}"
        told = _told.encode({"id": number, "wait": wait, "question": question})
        with self._asking:
            header = RECORD.pack(ASKED, self._position, len(told), time.time(), time.monotonic(), 0.0, 0)
            with self._writing:
                write_record(self._results, header, told)
            return self._answer(number, time.monotonic() + timeout) if wait else None

    def _answer(self, number: str, deadline: float) -> Any:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            _, _, size = LEASE.unpack(receive(self._control, LEASE.size))
            answer = json.loads(receive(self._control, size))
            if answer["id"] != number:
                continue  # to a question that was given up
            if "failure" in answer:
                raise RuntimeError(answer["failure"])
            return answer["value"]
        raise asking.Unanswered("The driver did not answer in time; is it alive, and not too busy?")

    def _take(self) -> bool:
        try:
            return bool(os.read(self._tokens, 1))
        except BlockingIOError:
            return False

    def _lease(self, start: int, count: int, pickled: bytes) -> None:
        """Run items until they, or the tokens, are at an end."""
        if not self._take():  # before anything of the user's runs: a crash in unpickling is then that of an item
            self._write(OVER)
            return
        items, function = self._load(pickled, count)
        self._write(BEGUN)
        for position in range(start, count):
            if position != start and not self._take():
                self._write(OVER)
                return
            item, items[position] = items[position], None
            self._run(function, item, position)
            if self._fresh:
                return

    def _load(self, pickled: bytes, count: int) -> tuple[list[Any], Callable[[Any], Any]]:
        what = "function"
        try:
            if self._function is None:
                self._function = pickle.loads(self._pickled)
            what = "items"
            return pickle.loads(pickled), self._function
        except BaseException as error:
            failure = self._unloadable(what, error)
            return [None] * count, lambda _: failure

    def _unloadable(self, what: str, error: BaseException) -> _Failed:
        told = self._describe(error)
        told["message"] = f"The {what} could not be unpickled on {platform.node()}: {told['message'] or told['error']}."
        if isinstance(error, ImportError):
            told["message"] += (
                f" Install what it needs ({error.name or 'see the traceback'}) for {sys.executable} on every executor."
            )
        else:
            told["message"] += (
                " It must not need anything that only exists on the driver; are the packages' versions the same?"
            )
        return _Failed(told)

    def _run(self, function: Callable[[Any], Any], item: Any, position: int) -> None:
        """Run one item and write what became of it. All of this counts for each of many small items."""
        self._position = position
        started, begun = time.time(), time.monotonic()
        try:
            value = function(item)
        except SystemExit as error:
            kind, payload = EXIT, _told.encode(self._left(error))
        except BaseException as error:
            kind, payload = EXCEPTION, _told.encode(self._describe(error))
        else:
            kind, payload = self._pack(value)
        if os.getpid() != self._pid:
            _end_copy(kind)
        ended = time.monotonic()
        _flush()
        if ended - begun > _SHORT or not self._peak:
            self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
        if said := self._said():
            self._say(said)
        os.write(self._output, self._marker)  # no more than PIPE_BUF: in one piece
        header = RECORD.pack(kind, position, len(payload), started, ended, ended - begun, self._peak)
        with self._writing:
            write_record(self._results, header, payload)

    def _pack(self, value: Any) -> tuple[int, bytes]:
        if type(value) is _Failed:
            return EXCEPTION, _told.encode(value.told)
        try:
            payload = pickle.dumps(value, 5)
        except Exception:  # of any class: whatever pickling it may raise, cloudpickle has the last word
            try:
                payload = cloudpickle.dumps(value, 5)
            except Exception as error:
                return RESULT, _told.encode(self._unpicklable(value, error))
        if len(payload) > self._limit:
            return RESULT, _told.encode(
                _told.failure(
                    "ResultTooLarge",
                    f"The result takes {len(payload):,} bytes; the limit is {self._limit:,}. Write it to a file that the "
                    "driver can read and return its path, or raise result_limit.",
                )
            )
        return OK, payload

    def _unpicklable(self, value: Any, error: BaseException) -> dict[str, Any]:
        told = self._describe(error)
        told["message"] = (
            f"The result, of type {_told.name(type(value))}, cannot be pickled: {told['error']}: {told['message']}. "
            "Return plain values, arrays, or the path of a file."
        )
        return told

    def _left(self, error: SystemExit) -> dict[str, Any]:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # as Python does
        message = f"The item called sys.exit({error.code!r}): exit code {code}. Return a value, or raise another exception."
        return {**self._describe(error), "message": message, "code": code}

    def _describe(self, error: BaseException) -> dict[str, Any]:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, frames))
        except Exception as broken:  # an exception's own code may be anything
            text = f"The traceback could not be made: {type(broken).__name__}"
        return _told.failure(_told.name(type(error)), _told.message(error)[:_MAX_MESSAGE], text[-_MAX_TRACEBACK:])

    def _say(self, said: list[dict[str, Any]]) -> None:
        self._write(SAID, _told.encode(said))

    def _write(self, kind: int, payload: bytes = b"") -> None:
        header = RECORD.pack(kind, 0, len(payload), time.time(), time.monotonic(), 0.0, 0)
        with self._writing:
            write_record(self._results, header, payload)


class _Failed:
    """What stands for the value of an item whose function or items could not be unpickled."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, ValueError, OSError):  # the user has put None or a closed stream there: nothing is kept in it
        return


def _end_copy(kind: int) -> NoReturn:
    """End a fork of this process that came back from the user's function: it must not write a second result."""
    _flush()
    os._exit(0 if kind == OK else 1)
