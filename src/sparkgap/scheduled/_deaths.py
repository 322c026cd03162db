"""How the death of a child is told. Pure."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

_FATAL = "Fatal Python error"  # how faulthandler begins


@dataclass(frozen=True)
class Death:
    """What ended an item whose process is gone.

    Args:
        kind: see `Ended`.
        error: a name for it.
        message: what happened and what to do.
        exit_code: if the process ended itself.
        signal: if it was killed by one, other than by the bench.
    """

    kind: str
    error: str
    message: str
    exit_code: int | None = None
    signal: int | None = None


def timeout(limit: float) -> Death:
    """The item took too long."""
    return Death("timeout", "Timeout", f"The item took longer than {limit:g} s and its process was killed. Raise timeout.")


def slow_start(limit: float) -> Death:
    """Unpickling took too long."""
    return Death(
        "timeout", "Timeout",
        f"The function and its items were not unpickled within {limit:g} s, and the process was killed. What does its import "
        "wait for?",
    )  # fmt: skip


def memory(used: int, limit: int) -> Death:
    """The watch over memory found too much."""
    text = (
        f"The item's processes held {used:,} bytes of memory; the limit is {limit:,}. They were killed. Let the item hold "
        "less at a time, or raise memory."
    )
    return Death("memory", "MemoryLimit", text)


def cancelled() -> Death:
    """The bench was told to kill it."""
    return Death("cancelled", "Cancelled", "The item was cancelled and its process was killed.")


def zygote_gone() -> Death:
    """The process that forks was killed, and its children with it."""
    return Death(
        "signal", "ProcessKilled",
        "The process that had started the item's process was killed (signal 9, SIGKILL), and that one with it: often the "
        "kernel, out of memory. Give the executor more memory.",
        signal=int(signal.SIGKILL),
    )  # fmt: skip


def unexpected(status: int, peak_rss: int, oom_kills: int | None) -> Death:
    """The process ended while the item ran.

    Args:
        status: as `os.wait4` gives it.
        peak_rss: bytes.
        oom_kills: how many processes of the container the kernel killed for lack of memory meanwhile; None where unknown.
    """
    if not os.WIFSIGNALED(status):
        code = os.WEXITSTATUS(status)
        text = (
            f"The item ended its process with exit code {code} (os._exit, or code outside of Python). Return a value instead."
        )
        return Death("exit", "ProcessExit", text, exit_code=code)
    number = os.WTERMSIG(status)
    names = {s.value: s.name for s in signal.Signals}
    text = f"The item's process was killed by signal {number} ({names.get(number, 'unnamed')})."
    if number == signal.SIGKILL:
        text += f" That is often the kernel, out of memory: peak RSS was {peak_rss:,} bytes. {_kernel(oom_kills)}"
    else:
        text += " Where it was is at the end of its output; look for code outside of Python."
    return Death("signal", "ProcessKilled", text, signal=number)


def _kernel(oom_kills: int | None) -> str:
    if oom_kills is None:
        return "Whether it was the kernel could not be read here."
    if oom_kills:
        return "The kernel did kill for lack of memory meanwhile (memory.events of the container). Give more memory."
    return "The kernel counts no kill for lack of memory meanwhile; somebody else may have sent the signal."


def stack(output: str) -> str:
    """Return what faulthandler wrote at the end of an output, or ``""``."""
    at = output.rfind(_FATAL)
    return output[at:] if at >= 0 else ""
