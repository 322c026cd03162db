"""What this machine offers: cores, memory and interpreter, asked once and passed on as a value."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What this process may use.

    Attributes:
        cores: at least 1; respects CPU affinity and a container's quota, as the JVM does.
        memory: bytes of physical memory, or of the container's limit where that is less; None where unknown.
        python: path of the running interpreter.
    """

    cores: int
    memory: int | None
    python: str


def detect(cgroup: Path = _CGROUP) -> Machine:
    """Ask the operating system, on the machine that calls this."""
    return Machine(
        cores=_least(_cpus(), quota_cores(_read(cgroup / "cpu.max"))) or 1,
        memory=_least(_physical_memory(), memory_limit(_read(cgroup / "memory.max"))),
        python=sys.executable,
    )


def quota_cores(cpu_max: str | None) -> int | None:
    """Cores of a cgroup v2 ``cpu.max`` ("150000 100000" is 1.5 cores, so 2), or None without a quota."""
    fields = (cpu_max or "").split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) == 0:
        return None
    return max(1, -(-int(fields[0]) // int(fields[1])))  # rounded up, as the JVM rounds it


def memory_limit(memory_max: str | None) -> int | None:
    """Bytes of a cgroup v2 ``memory.max``, or None without a limit."""
    text = (memory_max or "").strip()
    return int(text) if text.isdigit() else None


def _least(*amounts: int | None) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def _cpus() -> int | None:
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf; some systems lack the names
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:  # no cgroup v2 here: nothing limits us that we could read
        return None
