"""All-reduce with the same bits for every number of workers: a fixed binary tree of micro-gradients. In a rank.

Floating-point addition depends on the order. Here the order is fixed by the virtual workers and not by the real ones: the
global batch is cut into V micro-batches by position; the gradient of each is computed by itself, from the same number of rows
whoever computes it; and they are summed in a balanced binary tree over 0 … V-1. A rank owns a whole subtree, whose root it
sends; the upper levels of the tree are the rounds between ranks (see `tree_all_reduce_`).

What else could change bits is fixed too: threads inside a kernel (`threads`), the alignment of a batch in memory, and random
numbers, which are seeded by (seed, step, micro-batch). Buffers of batch normalisation: every micro-batch of a step starts from
the same ones, and the new ones are their mean over the rows, summed in the same tree; counters are those of the last one.
The machines must have the same kind of processor and the same versions of the libraries; with other frameworks than PyTorch,
all ranks must get the same number of threads from their environment.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.strategies.base import Batch, Run, check_rows
from sparkgap.cooperative.strategies.flat import Flat, equalise, is_floating, wide
from sparkgap.cooperative.strategies.group import broadcast_arrays
from sparkgap.cooperative.strategies.tree import TreeSum, tree_all_reduce_

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable

_ALIGNMENT = 64  # bytes; the widest vector registers


class DeterministicRun(Run):
    """One rank of a deterministic run.

    Args:
        trainable: the model.
        group: the ranks; their number divides `virtual`.
        virtual: number of virtual workers, a power of two.
        seed: of random numbers in the forward pass.
        threads: of PyTorch, set for the process.

    Raises:
        ConfigurationError: the number of ranks does not divide `virtual`.
    """

    def __init__(self, trainable: Trainable, group: Group, virtual: int, *, seed: int, threads: int) -> None:
        if virtual % group.world:
            raise ConfigurationError(
                f"AllReduce(deterministic=True): {group.world} workers do not divide virtual_workers={virtual}. Use a number "
                f"of workers that is a power of two up to {virtual}, or more virtual workers."
            )
        self._trainable, self._group, self._virtual = trainable, group, virtual
        self._seed, self._step = seed, 0
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        equalise(trainable, group)
        self._floating = [i for i, array in enumerate(trainable.buffers()) if is_floating(array)]
        self._sum = TreeSum(virtual // group.world, self._leaf_like)

    def _leaf_like(self) -> Flat:
        parameters, buffers = self._trainable.parameters(), self._trainable.buffers()
        return Flat([*parameters, *(buffers[i] for i in self._floating), np.zeros(1, wide(parameters[0]))])

    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step; returns the mean loss over the global batch.

        Raises:
            DataError: the batch is not the part of this rank by position.
        """
        check_rows(batch, rows, total)
        parts = micro_batches(total, self._virtual, self._group.rank, self._group.world)
        if parts[-1].stop != rows:
            raise DataError(
                f"A deterministic step got {rows} rows of {total} in rank {self._group.rank}, which owns {parts[-1].stop}. "
                'The batch must be cut by position, as worker.batches does with last="short" or "drop".'
            )
        before = [array.copy() for array in self._trainable.buffers()]
        after = before
        even = total % self._virtual == 0  # then all weigh the same, and are weighted once, in the root
        first = self._group.rank * len(parts)
        for number, part in enumerate(parts):
            if part.stop == part.start:
                self._sum.push_zero()
                continue
            if number and before:
                self._trainable.load_buffers(before)
            self._seed_for(first + number)
            loss, gradients = self._trainable.gradients({name: aligned(column[part]) for name, column in batch.items()})
            after = [array.copy() for array in self._trainable.buffers()]
            leaf = [*gradients, *(after[i] for i in self._floating), np.asarray([loss])]
            self._sum.push(leaf, 1.0 if even else (part.stop - part.start) / total)
        root = self._sum.pop()
        for vector in root.vectors:
            tree_all_reduce_(vector, self._group)
        root.scale(1 / self._virtual if even else 1.0)
        return self._finish_step(root, after)

    def _finish_step(self, root: Flat, after: Sequence[np.ndarray]) -> float:
        count = len(root.arrays) - 1 - len(self._floating)
        self._trainable.apply(root.arrays[:count])
        if after:
            self._load_buffers(root.arrays[count:-1], list(after))
        self._step += 1
        return float(root.arrays[-1][0])

    def _load_buffers(self, means: Sequence[np.ndarray], after: list[np.ndarray]) -> None:
        """The last micro-batch is never empty: its counters are the newest."""
        if len(self._floating) < len(after):
            after = broadcast_arrays(after, self._group, self._group.world - 1)
        for i, mean in zip(self._floating, means, strict=True):
            after[i] = mean.astype(after[i].dtype)
        self._trainable.load_buffers(after)

    def _seed_for(self, micro_batch: int) -> None:
        """Seed random numbers of the forward pass, whoever computes it; a trainable with its own generators has `reseed`."""
        words = np.random.SeedSequence([self._seed, self._step, micro_batch]).generate_state(2, np.uint32)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(int(words[0]) << 32 | int(words[1]))
        reseed = getattr(self._trainable, "reseed", None)
        if reseed is not None:
            reseed(int(words[0]))

    def finish(self) -> None:
        """Do nothing: parameters and buffers are equal after every step."""

    def state(self) -> dict[str, Any]:
        """Return the number of steps, from which random numbers follow."""
        return {"step": self._step}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on after a number of steps."""
        self._step = int(state["step"])


def micro_batches(total: int, virtual: int, rank: int, world: int) -> list[slice]:
    """Return the micro-batches of a rank, as slices of its own part of the global batch. Pure.

    Micro-batch v has the rows from ``v * total // virtual`` to ``(v + 1) * total // virtual`` of the global batch, and rank r
    owns v from ``r * virtual / world`` on, so its part begins at row ``r * total // world``.
    """
    share = virtual // world
    cuts = [v * total // virtual for v in range(rank * share, (rank + 1) * share + 1)]
    return [slice(start - cuts[0], stop - cuts[0]) for start, stop in pairwise(cuts)]


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins at a multiple of 64 bytes: some kernels add in another order elsewhere."""
    array = np.ascontiguousarray(array)
    if array.dtype.hasobject:
        return array
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
