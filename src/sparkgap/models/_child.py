"""A Python child process under supervision: started, asked, watched, killed, never outliving its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from sparkgap import _errors
from sparkgap._errors import ModelError, ModelProcessError
from sparkgap.models._frames import Channel
from sparkgap.monitor import relay
from sparkgap.tensors.spec import Block

_TAIL = 20
_GRACE = 5.0  # seconds between asking a child to end and killing it


class RemoteModelError(ModelError):
    """The model raised in its own process; the text is that error's type and message.

    Args:
        text: ``"ValueError: …"``.
        type_name: the type in the child, e.g. ``"ValueError"`` or ``"jax.errors.TracerBoolConversionError"``.
        remote_traceback: the traceback in the child, as text.
    """

    def __init__(self, text: str, type_name: str = "", remote_traceback: str = "") -> None:
        super().__init__(text)
        self.type_name = type_name
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.type_name, self.remote_traceback)


class _RemoteTraceback(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"\n\nIn the process of the model:\n{text.rstrip()}")


class Child:
    """A process that runs `sparkgap.models._process_main` and answers one request at a time.

    Args:
        what: what it is for, in words, for messages.
        threads: how many threads its numeric libraries may start.
    """

    def __init__(self, what: str, *, threads: int = 1) -> None:
        self._what = what
        self._owner = os.getpid()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None
        self.timed_out = False
        ours, theirs = socket.socketpair()
        started = threading.Event()
        # The thread that starts the child also reads its stderr until it is dead: Linux kills the child
        # (PR_SET_PDEATHSIG) when the *thread* that started it ends, and a caller's thread may end long before.
        self._reader = threading.Thread(
            target=self._live, args=(theirs, threads, started), name="sparkgap-model-process", daemon=True
        )
        self._reader.start()
        started.wait()
        theirs.close()
        self._channel = Channel(ours)
        if self._failure is not None or self._process is None:
            self._channel.close()
            raise ModelProcessError(
                f"The process for {what} could not be started: {self._failure}. Check {sys.executable}."
            ) from self._failure
        self._finalizer: weakref.finalize[..., Child] = weakref.finalize(
            self, _stop, self._process, self._channel, self._reader, self._owner
        )

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs and is this process's own child (not that of the process this one was forked from)."""
        running = self._process is not None and self._process.poll() is None
        return self._finalizer.alive and running and self._owner == os.getpid()

    def ask(
        self, request: Mapping[str, Any], block: Mapping[str, Any] | None = None, *, timeout: float
    ) -> tuple[dict[str, Any], Block]:
        """Send a request and return the answer.

        Raises:
            ModelProcessError: it died, or did not answer within `timeout` seconds (it is dead then, too).
            RemoteModelError: the request failed in it. Errors of sparkgap keep their type, MemoryError too.
        """
        until = time.monotonic() + timeout
        try:
            self._channel.send(request, block, until=until)
            answer, result = self._channel.receive(until=until)
        except TimeoutError:
            self.timed_out = True
            self.stop(now=True)
            raise ModelProcessError(
                f"The process {self.pid} for {self._what} did not answer `{request['command']}` within "
                f"{timeout:g} s and was killed. If it needs longer, set SPARKGAP_MODEL_PROCESS_TIMEOUT to more "
                f"seconds, or use a smaller batch_size.{self._last_lines()}"
            ) from None
        except (EOFError, ConnectionError):
            raise self._death() from None
        except (KeyboardInterrupt, SystemExit):
            self.stop(now=True)  # its answer would be taken for that of the next request
            raise
        if answer["kind"] == "error":
            _raise(answer)
        return answer, result

    def stop(self, *, now: bool = False) -> None:
        """End the process and wait until it is gone. Does nothing the second time.

        Args:
            now: do not let it finish what it does.
        """
        known = self._finalizer.detach()
        if known is not None:
            _stop(*known[2], now=now)

    def _death(self) -> ModelProcessError:
        self.stop()
        assert self._process is not None
        code = self._process.returncode
        how = f"exit code {code}"
        if code < 0:
            names = {s.value: s.name for s in signal.Signals}
            how = f"signal {-code} ({names.get(-code, 'unnamed')})"
        hint = " That is what Linux does to a process when memory runs out." if code == -signal.SIGKILL else ""
        return ModelProcessError(f"The process {self.pid} for {self._what} died: {how}.{hint}{self._last_lines()}")

    def _last_lines(self) -> str:
        lines = self._tail.copy()  # at once: its reader may still be at work
        if not lines:
            return " It wrote nothing to stderr."
        return " Its last lines on stderr:\n" + "\n".join(f"  {line}" for line in lines)

    def _live(self, theirs: socket.socket, threads: int, started: threading.Event) -> None:
        try:
            self._process = _spawn(theirs.fileno(), threads)
        except OSError as error:
            self._failure = error
            return
        finally:
            started.set()
        pipe = self._process.stdout
        assert pipe is not None
        while line := pipe.readline(1 << 16):
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            relay.line(text)
            with contextlib.suppress(OSError):  # our own stderr may be closed; the child must not block for that
                os.write(2, line)
        pipe.close()
        self._process.wait()


_SAFE_PATH = ("-P",) if sys.version_info >= (3, 11) else ()  # no file of the working folder stands for a module


def _spawn(descriptor: int, threads: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    # what this process can import, the child can: Spark adds folders and zips to sys.path while it runs
    environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    return subprocess.Popen(
        [
            sys.executable, "-u", *_SAFE_PATH, "-X", "faulthandler", "-m", "sparkgap.models._process_main",
            str(descriptor), str(os.getpid()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(descriptor,),
        env=environment,
    )  # fmt: skip


def _stop(
    process: subprocess.Popen[bytes], channel: Channel, reader: threading.Thread, owner: int, *, now: bool = False
) -> None:
    channel.close()  # an idle child sees the end of the stream and exits by itself
    if os.getpid() != owner:
        return
    if now or not _gone(process):
        process.terminate()  # the child writes to stderr where it is, and dies of it
        if not _gone(process):
            process.kill()
            process.wait()
    reader.join(_GRACE)


def _gone(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        return False
    return True


def _raise(answer: Mapping[str, Any]) -> None:
    """Raise what the child reported; its traceback is the cause, so that it is printed with the error."""
    kind, message = answer["type"], answer["message"]
    cause = _RemoteTraceback(answer["traceback"])
    module, _, name = kind.rpartition(".")
    if answer["memory"]:
        raise MemoryError(message if kind == "MemoryError" else f"{kind}: {message}") from cause
    known = getattr(_errors, name, None) if module == _errors.__name__ else None
    if isinstance(known, type) and issubclass(known, _errors.SparkGapError):
        raise known(message) from cause
    raise RemoteModelError(f"{kind}: {message}", kind, answer["traceback"]) from cause
