"""What this process and its devices use: memory, and GPUs by NVML."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def memory() -> int:
    """Return the resident memory of this process in bytes; the highest so far where the system tells no other."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def runnable() -> int:
    """Return how many threads of this process run or wait for a core, the calling one left out; 0 where unknown."""
    count = 0
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/stat", "rb") as file:
                count += file.read().rpartition(b")")[2].split()[0] == b"R"
    except OSError:  # not Linux, or a thread that has just ended
        return 0
    return max(0, count - 1)


def gpus() -> Mapping[str, Any]:
    """Return utilisation (percent) and memory (bytes) of the GPUs that this process sees; or the reason for none.

    Returns:
        ``{"reason": text}``, or ``{"devices": [{"index", "name", "busy", "memory", "total"}]}``.
    """
    reason, read = _nvml()
    return {"reason": reason} if read is None else read()


@cache
def _nvml() -> tuple[str, Callable[[], Mapping[str, Any]] | None]:
    """Open NVML once in a process."""
    try:
        import pynvml
    except ImportError:
        return "no GPU figures: package nvidia-ml-py is not installed", None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return f"no GPU figures: NVML says {error}", None
    if not count:
        return "no GPU figures: NVML finds no device", None
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]

    def read() -> Mapping[str, Any]:
        return {"devices": [_device(pynvml, index, handle) for index, handle in enumerate(handles)]}

    return "", read


def _device(nvml: Any, index: int, handle: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index}
    try:
        name = nvml.nvmlDeviceGetName(handle)
        used = nvml.nvmlDeviceGetMemoryInfo(handle)
        found |= {"name": name if isinstance(name, str) else name.decode(), "memory": int(used.used), "total": int(used.total)}
        found["busy"] = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError as error:
        found["reason"] = str(error)
    return found
