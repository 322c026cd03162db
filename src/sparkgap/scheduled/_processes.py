"""What Linux tells about processes, and how it ties the life of one to that of another. Empty answers elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections import defaultdict
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_PAGE = os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, also of those that called setsid."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have this process killed when the thread that forked it, in the process `parent`, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def kill(pid: int) -> None:
    """Kill a process, and its group if it leads one; does nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # no group of its own, or (macOS) only zombies in it
        os.killpg(pid, signal.SIGKILL)
    send(pid, signal.SIGKILL)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; does nothing if the process is gone, or its id not known yet (0)."""
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Return the ids of all living processes below a process."""
    children = defaultdict(list)
    for name in os.listdir("/proc") if _LINUX else ():
        if name.isdigit() and (parent := _parent(name)) is not None:
            children[parent].append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _parent(name: str) -> int | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]  # the name before it may hold anything
    except OSError:  # it has ended since the folder was listed
        return None
    return None if state in b"ZX" else int(parent)


def resident(pids: list[int], *, shared: bool) -> int:
    """Return the resident memory of processes in bytes.

    Args:
        pids: the processes; those that are gone count nothing.
        shared: count pages that processes share once for each (cheap); else divided among those that share them (PSS).
    """
    return sum(_rss(pid) if shared else _pss(pid) for pid in pids)


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # gone, or just going
        return 0


def _pss(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:  # gone; or a kernel without the file, where RSS must do
        return _rss(pid)
    return int(found[1]) * 1024 if found else 0


def kills_for_memory() -> int | None:
    """Return how often the kernel killed something in this process's cgroup for lack of memory; None where unknown."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:  # not Linux
        return None
    for _, controllers, path in groups:
        if not controllers:
            files = [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
        elif "memory" in controllers.split(","):
            files = [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
        else:
            continue
        for file in files:
            if (count := _oom_kills(Path(file))) is not None:
                return count
    return None


def _oom_kills(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)", file.read_text(), re.MULTILINE)
    except OSError:  # the path is that of another namespace, or the controller is not mounted
        return None
    return int(found[1]) if found else None
