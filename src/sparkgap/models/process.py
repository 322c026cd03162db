"""Models in a process of their own: where two frameworks cannot share one, or where a crash must stay outside."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, ModelProcessError
from sparkgap.models import bundle
from sparkgap.models._child import Child, RemoteModelError
from sparkgap.models.base import Predictor, Runtime
from sparkgap.monitor import relay
from sparkgap.tensors.spec import Block

__all__ = ["ProcessPredictor", "RemoteModelError", "call_in_child"]

START_TIMEOUT = 120.0
PREDICT_TIMEOUT = 600.0

_log = logging.getLogger(__name__)


class ProcessPredictor(Predictor):
    """Runs a model in a supervised child process of this one.

    Blocks go to the child and come back over a socket, as raw buffers and JSON: nothing is pickled. What the
    model raises is raised here: sparkgap's own errors and `MemoryError` as they are, anything else as
    `RemoteModelError` with the text ``"ValueError: …"`` and the child's traceback as its cause. A child that died
    is started again once a call, and the block is tried again: a crash costs one load of the model, not the task.
    The child dies with this process, whatever way this one ends.

    Args:
        ref: the model.
        runtime: device and threads in the child.
        start_timeout: seconds for starting the child and loading the model.
        timeout: seconds for one block; default `SPARKGAP_MODEL_PROCESS_TIMEOUT`, else 600.

    Raises:
        ModelProcessError: the child died or was too slow while it loaded the model.
        ModelFormatError: the files are missing or unreadable.
        MissingDependencyError: the framework is not installed here.
    """

    def __init__(
        self,
        ref: bundle.BundleRef,
        runtime: Runtime,
        *,
        start_timeout: float = START_TIMEOUT,
        timeout: float | None = None,
    ) -> None:
        self._ref = ref
        self._runtime = runtime
        self._start_timeout = start_timeout
        self._timeout = _predict_timeout() if timeout is None else timeout
        self._what = f"the {ref.adapter} model {ref.digest[:12]}"
        self.restarts = 0
        self._child: Child | None = self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None after `close`."""
        return None if self._child is None else self._child.pid

    def predict(self, block: Block) -> Block:
        """Run the model on a block in the child.

        Raises:
            ModelProcessError: the child died on this block twice, or did not answer in time.
            RemoteModelError: the model raised.
            MemoryError: the model ran out of memory.
        """
        healed = False
        while True:
            if self._child is None or not self._child.alive:
                self._restart()
                healed = True
            assert self._child is not None
            try:
                answer, result = self._child.ask({"command": "predict"}, block, timeout=self._timeout)
                relay.pass_on(answer.get("said", ()))
                return result
            except ModelProcessError as error:
                if healed or self._child.timed_out:
                    raise
                _log.warning("The process is started again and the block tried once more, because: %s", error)

    def layers(self, names: Sequence[str], block: Block) -> dict[str, np.ndarray]:
        """Ask the child what these layers give; see `Predictor.layers`.

        Raises:
            ModelProcessError: there is no child any more.
            RemoteModelError: the model, or the lack of a layer, raised.
        """
        if self._child is None:
            raise ModelProcessError("The process of this model has ended.")
        request = {"command": "layers", "names": list(names)}
        return dict(self._child.ask(request, block, timeout=self._timeout)[1])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _start(self) -> Child:
        path = bundle.locate(self._ref)  # here, not in the child: it cannot ask Spark where its files are
        child = Child(self._what, threads=self._runtime.threads)
        request = {
            "command": "open",
            "ref": asdict(self._ref),
            "path": str(path),
            "device": self._runtime.device,
            "threads": self._runtime.threads,
        }
        try:
            child.ask(request, timeout=self._start_timeout)
        except BaseException:
            child.stop()
            raise
        return child

    def _restart(self) -> None:
        self.close()
        self.restarts += 1
        self._child = self._start()


def call_in_child(target: str, *, timeout: float = START_TIMEOUT, **arguments: Any) -> Any:
    """Call a function in a short-lived child process, so that what it imports does not stay in this one.

    Args:
        target: ``"package.module:function"``.
        timeout: seconds, from start to end.
        arguments: its keyword arguments: JSON values. It must return a JSON value.

    Raises:
        ModelProcessError: the child died or was too slow.
        RemoteModelError: the function raised; errors of sparkgap keep their type.
    """
    child = Child(f"a call of {target}", threads=os.cpu_count() or 1)
    try:
        request = {"command": "call", "target": target, "arguments": arguments}
        return child.ask(request, timeout=timeout)[0]["value"]
    finally:
        child.stop()


def _predict_timeout() -> float:
    text = os.environ.get("SPARKGAP_MODEL_PROCESS_TIMEOUT", "")
    if not text:
        return PREDICT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigurationError(
            f"SPARKGAP_MODEL_PROCESS_TIMEOUT is {text!r}; it must be a number of seconds above 0, e.g. 600."
        )
    return seconds
