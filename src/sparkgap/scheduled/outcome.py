"""What became of an item: a value, and how it is kept in the journal."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from sparkgap._errors import TaskError
from sparkgap.scheduled._sources import with_sources

Kind = Literal["ok", "exception", "timeout", "memory", "exit", "signal", "result", "lost"]
KINDS: tuple[str, ...] = get_args(Kind)
_FIXED = struct.Struct("<BHddqiiHIQ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item of `gap.run`.

    Attributes:
        index: number of the item, from 0.
        item: the item.
        kind: ``"ok"``; ``"exception"``: it raised; ``"timeout"``; ``"memory"``: above its limit; ``"exit"``: it ended its
            process; ``"signal"``: its process was killed; ``"result"``: what it returned cannot be pickled, or is too
            large; ``"lost"``: the executors on which it was tried have all vanished.
        value: what the function returned; None unless `ok`.
        error: why there is no value; None if `ok`.
        attempts: how often it was tried.
        seconds: how long the last attempt took.
        started: when that began, in seconds since 1970.
        peak_rss: highest resident memory of its process, in bytes. A process that works on many items: until then.
        exit_code: of its process, where the item ended that.
        signal: that killed its process, or None.
        host: where it ran.
        output: the end of what it printed.
    """

    index: int
    item: Any
    kind: str
    value: Any = None
    error: TaskError | None = None
    attempts: int = 1
    seconds: float = 0.0
    started: float = 0.0
    peak_rss: int = 0
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    output: str = field(default="", repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.kind == "ok"

    def unwrap(self) -> Any:
        """Return the value.

        Raises:
            TaskError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self.value


class Ending(NamedTuple):
    """An outcome as it comes from a slot and lies in the journal: the value still pickled.

    Attributes:
        host: where it ran.
        texts: error, message, traceback, output; left out where empty.
    """

    kind: str
    value: bytes = b""
    attempts: int = 1
    seconds: float = 0.0
    started: float = 0.0
    peak_rss: int = 0
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    texts: Mapping[str, str] = MappingProxyType({})


_CODES = {kind: code for code, kind in enumerate(KINDS)}
_NONE = -(1 << 31)


def encode(ending: Ending) -> bytes:
    """Return an ending as bytes."""
    kind, value, attempts, seconds, started, rss, exit_code, signal, host, texts = ending
    said = json.dumps(dict(texts)).encode() if texts else b""
    where = host.encode()
    fixed = _FIXED.pack(
        _CODES[kind], min(attempts, 65535), seconds, started, rss, _NONE if exit_code is None else exit_code,
        _NONE if signal is None else signal, len(where), len(said), len(value),
    )  # fmt: skip
    return b"".join((fixed, where, said, value))


def encode_value(value: bytes, attempts: int, seconds: float, started: float, peak_rss: int, host: bytes) -> bytes:
    """Return an ending that has a value and no texts as bytes; the same as `encode` in a third of the time."""
    fixed = _FIXED.pack(0, min(attempts, 65535), seconds, started, peak_rss, _NONE, _NONE, len(host), 0, len(value))
    return fixed + host + value


def decode(raw: bytes) -> Ending:
    """Read an ending.

    Raises:
        ValueError: these bytes are none.
    """
    if len(raw) < _FIXED.size:
        raise ValueError(f"an outcome of {len(raw)} bytes; at least {_FIXED.size} were expected")
    kind, attempts, seconds, started, rss, code, killer, where, said, value = _FIXED.unpack_from(raw)
    if len(raw) != _FIXED.size + where + said + value or kind >= len(KINDS):
        raise ValueError("an outcome whose parts do not fit its length")
    texts = _FIXED.size + where
    exit_code, signal = (None if n == _NONE else n for n in (code, killer))
    host = raw[_FIXED.size : texts].decode()
    return Ending(
        KINDS[kind], raw[texts + said :], attempts, seconds, started, rss, exit_code, signal, host,
        json.loads(raw[texts : texts + said]) if said else {},
    )  # fmt: skip


def is_ok(raw: bytes) -> bool:
    """Whether encoded bytes are an outcome with a value, without reading all of them."""
    return bool(raw) and raw[0] == 0


def value_of(index: int, raw: bytes) -> Any:
    """Return the value of an encoded outcome that has one.

    Raises:
        TaskError: it cannot be unpickled here.
    """
    *_, where, said, _ = _FIXED.unpack_from(raw)
    return _unpickled(f"Item {index}", index, memoryview(raw)[_FIXED.size + where + said :])


def _unpickled(what: str, index: int, value: bytes | memoryview) -> Any:
    try:
        return pickle.loads(value)
    except Exception as failure:  # of any class: what it takes to rebuild a value is the user's
        raise TaskError(
            f"{what}: its value came, but cannot be unpickled on the driver ({type(failure).__name__}: {failure}). "
            "Return plain values or arrays, or install here what defines it.",
            index, "result", type(failure).__name__,
        ) from failure  # fmt: skip


def error_of(what: str, index: int, kind: str, texts: Mapping[str, str]) -> TaskError:
    """Return the error of an ending without a value; `what` names whose it is."""
    traceback = with_sources(texts.get("traceback", ""))
    return TaskError(f"{what}: {texts.get('message', '')}", index, kind, texts.get("error", ""), traceback)


def opened(what: str, index: int, ending: Ending) -> tuple[str, Any, TaskError | None]:
    """Return kind, value and error of an ending, the value unpickled here; `what` names whose it is."""
    if ending.kind != "ok":
        return ending.kind, None, error_of(what, index, ending.kind, ending.texts)
    try:
        return ending.kind, _unpickled(what, index, ending.value), None
    except TaskError as failure:
        return "result", None, failure


def outcome(index: int, item: Any, ending: Ending) -> Outcome:
    """Return what users get of an ending."""
    kind, value, error = opened(f"Item {index}", index, ending)
    return Outcome(
        index, item, kind, value, error, ending.attempts, ending.seconds, ending.started, ending.peak_rss,
        ending.exit_code, ending.signal, ending.host, ending.texts.get("output", ""),
    )  # fmt: skip
