"""How events cross to the driver: frames, and the proof that a sender knows the token.

A frame is a 4-byte big-endian length and that many bytes of JSON. The first frame of a connection proves that the
sender knows the token: an HMAC of a nonce that the hub has sent, so the token itself never crosses. Then come frames of
events, each answered by the number of the last event that the hub has. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparkgap.monitor.events import VERSION

MAX_FRAME = 4 << 20
NONCE_BYTES = 16
HEADER = struct.Struct(">I")
TIMEOUT = 5.0


@dataclass(frozen=True)
class Address:
    """Where events go. Travels in the plan.

    Attributes:
        host: where the hub listens; "" where it cannot be reached.
        port: likewise.
        token: what proves that a sender belongs to this application.
        folder: shared folder for events where there is no way to the hub, or "".
        certificate: PEM text of the hub's certificate, where the connection is to be encrypted, or "".
    """

    host: str
    port: int
    token: str = field(repr=False)
    folder: str = ""
    certificate: str = field(default="", repr=False)


def frame(sender: str, run: str, first: int, told: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the body of a frame of events.

    Args:
        sender: id of the process that says them.
        run: id of the run they belong to.
        first: number of the first of them, counted by the sender.
        told: the events, encoded.
    """
    body = {"version": VERSION, "sender": sender, "run": run, "first": first, "events": told}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def parse(body: bytes | str) -> dict[str, Any]:
    """Read the body of a frame.

    Raises:
        ValueError: it is not a JSON object.
    """
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a frame must be a JSON object")
    return message


def parse_events(message: Mapping[str, Any]) -> tuple[str, str, int, list[Mapping[str, Any]]]:
    """Return sender, run, number of the first event, and the events.

    Raises:
        ValueError: something is missing, or has another type.
    """
    sender, run, first, told = (message.get(k) for k in ("sender", "run", "first", "events"))
    if not (isinstance(sender, str) and isinstance(run, str) and isinstance(first, int) and isinstance(told, list)):
        raise ValueError("a frame of events needs sender, run, first and events")
    if not all(isinstance(e, dict) for e in told):
        raise ValueError("an event must be a JSON object")
    return sender, run, first, told


def packed(body: bytes) -> bytes:
    """Put the length before a body.

    Raises:
        ValueError: the body is longer than `MAX_FRAME`.
    """
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME}")
    return HEADER.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """Read the length of a frame.

    Raises:
        ValueError: it is longer than `MAX_FRAME`.
    """
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
    return int(length)


def proof(token: str, nonce: bytes) -> str:
    """Return what proves the knowledge of a token."""
    return hmac.new(token.encode(), nonce, hashlib.sha256).hexdigest()


def authentic(token: str, nonce: bytes, given: str) -> bool:
    """Whether a proof was made with this token for this nonce."""
    return hmac.compare_digest(proof(token, nonce), given)
