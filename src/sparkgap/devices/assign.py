"""Which device this task's model runs on: the one that Spark gave it, else a visible one, else the CPU."""

from __future__ import annotations

import glob
from collections.abc import Sequence

from sparkgap._errors import ConfigurationError


def choose(wanted: str, *, can_gpu: bool, granted: Sequence[str], visible: int, partition: int) -> str:
    """Choose a device. Pure.

    Args:
        wanted: ``"auto"``, ``"cpu"``, ``"cuda"`` or a device with a number, such as ``"cuda:1"``.
        can_gpu: whether the model's adapter runs on GPUs.
        granted: GPU addresses that Spark granted to this task.
        visible: number of GPUs on this machine.
        partition: number of the partition; spreads tasks over visible GPUs that Spark does not manage.

    Returns:
        ``"cpu"`` or ``"cuda:<n>"``.

    Raises:
        ConfigurationError: a GPU is asked for and there is none, or the adapter has no GPU support.
    """
    if wanted == "cpu" or (wanted == "auto" and not can_gpu):
        return "cpu"
    if wanted not in ("auto", "cuda"):
        return wanted
    if wanted == "cuda" and not can_gpu:
        raise ConfigurationError("device='cuda' was asked for, and this model's adapter runs on the CPU only.")
    if granted:
        return f"cuda:{granted[0]}"
    if visible:
        return f"cuda:{partition % visible}"
    if wanted == "auto":
        return "cpu"
    raise ConfigurationError(
        "device='cuda' was asked for, and this executor has no NVIDIA GPU. Use device='auto', or request GPUs from "
        "Spark (spark.executor.resource.gpu.amount)."
    )


def granted_gpus() -> tuple[str, ...]:
    """Return the addresses of the GPUs that Spark has granted to the task of this process; none outside of tasks."""
    from pyspark import TaskContext

    context = TaskContext.get()
    found = context.resources().get("gpu") if context is not None else None
    return () if found is None else tuple(found.addresses)


def gpu_environment() -> dict[str, str]:
    """Return what makes the libraries of a child process see the GPUs of this task only; nothing where it has none."""
    granted = granted_gpus()
    return {"CUDA_VISIBLE_DEVICES": ",".join(granted)} if granted else {}


def visible_gpus() -> int:
    """Return the number of NVIDIA devices of this machine, without loading any library."""
    return len(glob.glob("/dev/nvidia[0-9]*"))
