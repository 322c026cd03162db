"""Runs a function in several real processes that have a gloo process group on the loopback interface."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sparkgap.cooperative.strategies.group import Group

PATIENCE = 240.0


def run_ranks(world: int, meeting: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``function(group, *arguments)`` returns in each rank; `meeting` is a folder for the ranks to meet in."""
    context = multiprocessing.get_context("forkserver")  # it imports torch once
    context.set_forkserver_preload(["torch.nn.parallel", "torch.distributed", "torch._dynamo"])
    store = meeting / f"store-{time.monotonic_ns()}"
    processes, ends = [], []
    for rank in range(world):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, rank, world, str(store), function, arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(mine)
    try:
        found = _collect(ends)
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * world
        return found
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(ends: list[Connection]) -> list[Any]:
    found: dict[int, Any] = {}
    until = time.monotonic() + PATIENCE
    while len(found) < len(ends):
        ready = wait([e for r, e in enumerate(ends) if r not in found], timeout=max(0, until - time.monotonic()))
        assert ready, f"ranks {[r for r in range(len(ends)) if r not in found]} did not answer in {PATIENCE} s"
        for end in ready:
            rank = ends.index(end)
            kind, value = end.recv()
            assert kind == "value", f"rank {rank}:\n{value}"
            found[rank] = value
    return [found[r] for r in range(len(ends))]


def _rank(
    end: Connection, rank: int, world: int, store: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        value = function(Group.of(), *arguments)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # rank 0 must not leave first
            torch.distributed.destroy_process_group()
        end.send(("value", value))
    except BaseException:
        end.send(("error", traceback.format_exc()))
