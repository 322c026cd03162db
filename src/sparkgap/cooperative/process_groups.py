"""Process groups of JAX and TensorFlow: set up before the user's function, torn down after it. In the process of a rank.

Both want to be told a port before they open it. A rank therefore binds a socket to a free port and never listens on it: no
other process can take the port, while the framework, whose servers share ports within a user, can; and connections only reach
a socket that listens. So no port is chosen and let go again.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from sparkgap._optional import need

if TYPE_CHECKING:
    from sparkgap.cooperative.rank import Place, RankPlan

Say = Callable[[str, Any], list[Any]]
"""Says something to all ranks, under a name, and returns what each has said."""


def group_of(place: Place, plan: RankPlan, say: Say) -> AbstractContextManager[None] | None:
    """Return the process group of a plan for the time of a block; None where it is one of ``torch.distributed``, or none.

    The block must end in all ranks at about the same time. After an exception nobody waits for anybody.

    Raises:
        MissingDependencyError: when the block is entered: the framework is not installed.
    """
    make = _KINDS.get(plan.backend or "")
    return None if make is None else make(place, plan, say)


def preload_for(backend: str | None) -> tuple[str, ...]:
    """Return the modules to import before the processes of ranks are forked. Driver side.

    JAX and TensorFlow are no such modules: they may start threads, which a fork loses.
    """
    return ("torch",) if backend and backend not in _KINDS else ()


@contextmanager
def _jax(place: Place, plan: RankPlan, say: Say) -> Iterator[None]:
    """Run JAX's coordinator in rank 0, and join it."""
    jax = need("jax", extra="jax", why='for backend="jax"')
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with closing(held_port(place.master if place.rank == 0 else None)) as held:
        coordinator = say("jax", address_of(held))[0]
        patience = math.ceil(plan.deadline)
        jax.distributed.initialize(
            coordinator, place.world, place.rank, coordinator_bind_address=coordinator, initialization_timeout=patience,
            shutdown_timeout_seconds=patience,
        )  # fmt: skip
    yield
    jax.distributed.shutdown()  # waits for all ranks: not where one has failed


@contextmanager
def _tensorflow(place: Place, plan: RankPlan, say: Say) -> Iterator[None]:
    """Set ``TF_CONFIG``; TensorFlow opens the port when a strategy is made, at any time."""
    need("tensorflow", extra="tensorflow", why='for backend="tensorflow"')
    with closing(held_port(place.address)) as held:
        cluster = {"worker": say("tensorflow", address_of(held))}
        mine = {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": place.rank}}),
            "TF_GRPC_REUSE_PORT": "1",  # else it refuses a port that this process holds
        }
        os.environ.update(mine)
        try:
            yield
        finally:
            for name in mine:
                os.environ.pop(name, None)


_KINDS: dict[str, Callable[[Place, RankPlan, Say], AbstractContextManager[None]]] = {"jax": _jax, "tensorflow": _tensorflow}


def held_port(address: str | None) -> socket.socket:
    """Return a socket that keeps a free port at an address from all other users, and does not listen; unbound for None."""
    held = socket.socket(socket.AF_INET6 if address and ":" in address else socket.AF_INET)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address is not None:
            held.bind((address, 0))
    except OSError:
        held.close()
        raise
    return held


def address_of(held: socket.socket) -> str:
    """Return ``host:port`` of a socket, or ``[host]:port``."""
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
