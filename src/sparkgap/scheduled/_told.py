"""What a child tells besides values: texts about failures, and the events of `gap.report`, `gap.show` and `logging`."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from sparkgap.monitor import events, local, relay

_EVERY = 0.2  # seconds between two sendings while an item runs


def encode(told: Any) -> bytes:
    """Return JSON; lone surrogates stay escapes."""
    return json.dumps(told).encode()


def failure(error: str, message: str, trace: str = "", code: int | None = None) -> dict[str, Any]:
    """Return what is told of an item that failed."""
    return {"error": error, "message": message, "traceback": trace, "code": code}


def name(kind: type) -> str:
    """Return a type's name, with its module unless that is obvious."""
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def message(error: BaseException) -> str:
    """Return an exception's text, also where its class cannot make one."""
    try:
        return str(error)
    except Exception as broken:
        return f"(its __str__ raised {type(broken).__name__})"


def listen(send: Callable[[list[dict[str, Any]]], None]) -> Callable[[], list[dict[str, Any]]]:
    """Collect what is said in this process; called by the child, once.

    Args:
        send: called every 0.2 s with what waits, from a thread that exists only once something was said: a fork of a process
            with threads is dangerous, and the user may want to fork.

    Returns:
        What takes all that waits.
    """
    relay.begin()
    keep = relay.keep
    lock = threading.Lock()
    started = False

    def drain() -> list[dict[str, Any]]:
        with lock:
            return relay.drain()

    def tick() -> None:
        stop = threading.Event()  # never set: the thread ends with the process
        while not stop.wait(_EVERY):
            if said := drain():
                send(said)

    def keep_and_send(event: events.Event) -> bool:
        nonlocal started
        with lock:
            kept = keep(event)
            first, started = not started, True
        if first:
            threading.Thread(target=tick, name="sparkgap-said", daemon=True).start()
        return kept

    relay.keep = keep_and_send  # what waits is to be known as soon as it waits
    handler = _Handler(logging.INFO)
    root = logging.getLogger()
    root.addHandler(handler)
    if root.level == logging.WARNING:  # Python's default, nobody's choice: INFO is what people write progress with
        root.setLevel(logging.INFO)
    return drain


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            relay.keep(
                events.Log(run=local.RUN, time=record.created, level=record.levelname, logger=record.name, text=text[:4000])
            )
            alone = logging.getLogger().handlers == [self]
            if alone and logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)  # with no handler but ours, warnings go to stderr as ever
        except Exception:  # as all handlers do: a record that cannot be formatted
            self.handleError(record)
