"""The child of `ProcessPredictor`: `python -m sparkgap.models._process_main FD PARENT_PID`.

It answers frames one after the other until the stream ends. The commands:

    open     ref, path, device, threads   load the model; the answer is `ok`
    predict  + tensors                    the answer is `ok` + tensors
    layers   names + tensors              likewise
    call     target, arguments            call a function "module:name" with JSON arguments; the answer is `ok` + value

What goes wrong inside a command is answered as `error`. Prints of frameworks go to stderr, which the parent reads.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from sparkgap.models._frames import Channel
from sparkgap.models.base import Predictor, Runtime
from sparkgap.monitor import relay
from sparkgap.tensors.spec import Block

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main(arguments: list[str]) -> None:
    """Serve the parent on an inherited socket until it closes it or dies."""
    die_with(int(arguments[1]))
    relay.begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # The parent stops a child that hangs by SIGTERM: this says where it hung, then lets the signal kill.
    faulthandler.register(signal.SIGTERM, all_threads=True, chain=True)
    channel = Channel(socket.socket(fileno=int(arguments[0])), reuse=True)
    server = _Server()
    while True:
        try:
            request, block = channel.receive()
        except (EOFError, ConnectionError):
            break
        try:
            answer, result = server.answer(request, block)
            channel.send(answer, result)
        except ConnectionError:
            break
        except BaseException as error:
            channel.send(server.describe(error))
            if not isinstance(error, Exception):
                raise
    server.close()
    sys.stdout.flush()
    os._exit(0)  # frameworks take seconds to tear themselves down, and some crash while they do


def die_with(parent: int) -> None:
    """Ask Linux to kill this process as soon as its parent is gone; elsewhere the end of the stream must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit("The process that started this model is gone.")


class _Server:
    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def answer(self, request: dict[str, Any], block: Block) -> tuple[dict[str, Any], Block]:
        command = request["command"]
        if command == "predict":
            assert self._predictor is not None, "predict before open"
            result = self._predictor.predict(block)
            return {"kind": "ok", "said": relay.drain()}, result
        if command == "layers":
            assert self._predictor is not None, "layers before open"
            return {"kind": "ok"}, self._predictor.layers(request["names"], block)
        if command == "open":
            self._predictor = _open(request)
            return {"kind": "ok"}, {}
        module, _, name = request["target"].partition(":")
        function = getattr(importlib.import_module(module), name)
        return {"kind": "ok", "value": function(**request["arguments"])}, {}

    def describe(self, error: BaseException) -> dict[str, Any]:
        kind = type(error)
        memory = isinstance(error, MemoryError)
        if self._predictor is not None and not memory:
            memory = self._predictor.is_out_of_memory(error)
        return {
            "kind": "error",
            "type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "memory": memory,
        }

    def close(self) -> None:
        if self._predictor is not None:
            self._predictor.close()


def _open(request: dict[str, Any]) -> Predictor:
    from sparkgap.models import family, registry
    from sparkgap.models.bundle import BundleRef

    ref = BundleRef(**request["ref"])
    adapter = registry.adapter(ref.adapter)
    packed = ref.packed()
    family.claim(adapter.family(packed))
    return adapter.open(Path(request["path"]), packed, Runtime(request["device"], request["threads"]))


if __name__ == "__main__":
    main(sys.argv[1:])
