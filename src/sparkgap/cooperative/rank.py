"""A rank: what runs in its process before and after the user's function. On an executor.

The environment is the one that ``torchrun`` makes, so libraries that know it (Lightning, Accelerate, Transformers) find
their peers by themselves. The store where they meet is opened on a free port by rank 0, which keeps it: no port is chosen
and let go again, so none can be taken by another process in between.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sparkgap._errors import SessionError
from sparkgap._optional import need
from sparkgap.cooperative import process_groups, telling
from sparkgap.cooperative.coordinator import JOIN
from sparkgap.scheduled import asking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sparkgap.cooperative.worker import Worker

MARGIN_SECONDS = 30.0
"""A rank waits so much longer for the driver than the driver for the last rank: it is the driver that says who is missing."""
REACH_SECONDS = 30.0
"""A machine that does not take a connection within this is taken for unreachable."""
_ANYWHERE = 9  # a port that nothing is sent to
_SIOCGIFADDR = 0x8915  # Linux: the address of an interface


@dataclass(frozen=True)
class RankPlan:
    """What every rank of a gang knows. A value that travels.

    Args:
        world: ranks.
        driver: an address of the driver, towards which the right interface of this machine is looked for.
        join: seconds until all ranks must have begun.
        deadline: seconds that a rank waits for its peers, anywhere.
        backend: of ``torch.distributed``, or ``"jax"`` or ``"tensorflow"``; None: no process group is made.
        returns: whose value goes to the driver.
        restarts: how often the gang was begun anew.
    """

    world: int
    driver: str
    join: float
    deadline: float
    backend: str | None
    returns: Literal["first", "all"] = "first"
    restarts: int = 0


@dataclass(frozen=True)
class Place:
    """Where a rank is among the others.

    Args:
        rank: its number.
        world: how many there are.
        local_rank: its number among those of its machine.
        local_world: how many are on its machine.
        node: number of its machine, in the order of the lowest ranks.
        nodes: number of machines.
        master: address of rank 0.
        address: its own.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    node: int
    nodes: int
    master: str
    address: str


@dataclass(frozen=True)
class RankTask:
    """The function of a gang, as a function of a rank.

    Args:
        plan: what all ranks know.
        work: the user's function, of a worker.
        make: makes the worker of a place.
    """

    plan: RankPlan
    work: Callable[[Worker], Any]
    make: Callable[[Place, RankPlan], Worker]

    def __call__(self, rank: int) -> Any:
        """Meet the others, work, and leave together."""
        place = meet(rank, self.plan)
        with processes(place, self.plan):
            worker = self.make(place, self.plan)
            with telling.telling(worker, "compute" if worker.data is None else "start"):
                value = self.work(worker)
            gather("leave", None, self.plan.deadline)  # rank 0 has the store, and must not go first
        return value if rank == 0 or self.plan.returns == "all" else None


def gather(name: str, value: Any, deadline: float) -> list[Any]:
    """Say something to all ranks, and return what each has said, by rank. All ranks must do so, in the same order.

    For facts of a few kilobytes: they go by way of the driver.

    Args:
        name: of the round.
        value: JSON values.
        deadline: seconds to wait for the others.

    Raises:
        Unanswered: some rank did not come in time.
    """
    try:
        with telling.within("communicate"):
            said: list[Any] = asking.ask({"do": "gather", "name": name, "value": value}, timeout=deadline)
    except asking.Unanswered as error:
        raise asking.Unanswered(f"The round {name!r} did not come about (deadline {deadline:g} s): {error}") from error
    return said


def meet(rank: int, plan: RankPlan) -> Place:
    """Wait until all ranks have begun, and find one's place among them."""
    mine = {"host": socket.gethostname(), "address": address_towards(plan.driver)}
    return place_of(rank, gather(JOIN, mine, plan.join + MARGIN_SECONDS))


def place_of(rank: int, facts: list[dict[str, str]]) -> Place:
    """Return the place of a rank, by host and address of each. Pure."""
    homes = [(f["host"], f["address"]) for f in facts]
    nodes = list(dict.fromkeys(homes))
    here = [r for r, home in enumerate(homes) if home == homes[rank]]
    return Place(
        rank, len(facts), here.index(rank), len(here), nodes.index(homes[rank]), len(nodes), facts[0]["address"],
        facts[rank]["address"],
    )  # fmt: skip


def address_towards(host: str) -> str:
    """Return the address of this machine on the way to another one; nothing is sent."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, _ANYWHERE))
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an IPv4 address; None where none has it. Linux only."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no such address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


@contextmanager
def processes(place: Place, plan: RankPlan) -> Iterator[None]:
    """Set the environment up, and the process group if one is wanted; torn down at the end of the block."""
    os.environ.update(environment(place, plan))
    other = process_groups.group_of(place, plan, lambda name, value: gather(name, value, plan.deadline))
    if other is not None or plan.backend is None:
        with other or nullcontext():
            yield
        return
    torch = need("torch", extra="torch", why="A process group")
    from datetime import timedelta

    dist = torch.distributed
    patience = timedelta(seconds=plan.deadline)
    store = _store(dist, place, patience, plan)
    os.environ["MASTER_PORT"] = str(store.port)
    dist.init_process_group(plan.backend, store=store, rank=place.rank, world_size=place.world, timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _store(dist: Any, place: Place, patience: Any, plan: RankPlan) -> Any:
    """Open the store in rank 0, and connect to it from the others."""
    make = dict(world_size=place.world, timeout=patience, wait_for_workers=False)
    if place.rank == 0:
        store = dist.TCPStore(place.master, 0, is_master=True, **make)
        gather("store", store.port, plan.deadline)
        return store
    port = gather("store", None, plan.deadline)[0]
    _try_way(place, port, min(plan.join, plan.deadline, REACH_SECONDS))
    return dist.TCPStore(place.master, port, is_master=False, **make)


def _try_way(place: Place, port: int, seconds: float) -> None:
    """Connect to the store, which listens already: PyTorch would try until the deadline, and blame rank 0 for hanging.

    Raises:
        SessionError: there is no way.
    """
    try:
        socket.create_connection((place.master, port), seconds).close()
    except OSError as error:
        raise SessionError(
            f"Rank {place.rank} on {socket.gethostname()} ({place.address}) cannot reach rank 0 at {place.master}:{port}: "
            f"{type(error).__name__}: {error}. The machines of the cluster must reach each other by TCP, on any port: look at "
            "firewalls and host names, and at spark.driver.host, towards which each machine's address is chosen."
        ) from error


def environment(place: Place, plan: RankPlan) -> dict[str, str]:
    """Return what ``torchrun`` would set."""
    names: dict[str, Any] = {
        "RANK": place.rank, "WORLD_SIZE": place.world, "LOCAL_RANK": place.local_rank, "LOCAL_WORLD_SIZE": place.local_world,
        "GROUP_RANK": place.node, "GROUP_WORLD_SIZE": place.nodes, "NODE_RANK": place.node, "ROLE_RANK": place.rank,
        "ROLE_WORLD_SIZE": place.world, "ROLE_NAME": "default", "MASTER_ADDR": place.master,
        "TORCHELASTIC_RUN_ID": "sparkgap", "TORCHELASTIC_RESTART_COUNT": plan.restarts, "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    interface = interface_of(place.address)
    if interface is not None:
        names |= {"GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}
    return {name: str(value) for name, value in names.items()}


def backend_for(wanted: str | None, gpus: float | None) -> str | None:
    """Return what ``backend="auto"`` stands for, and others as they are. Driver side.

    Gloo is there in any case: what is moved between strategies lies in the CPU's memory.
    """
    if wanted != "auto":
        return wanted
    if importlib.util.find_spec("torch") is None:
        return None
    return "gloo" if gpus is None else "cpu:gloo,cuda:nccl"
