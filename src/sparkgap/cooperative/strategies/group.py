"""The ranks that train together, as a thin wrapper of a process group of ``torch.distributed``. In a rank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.cooperative.telling import within


@dataclass(frozen=True)
class Group:
    """Ranks and how they talk. Methods take contiguous, writable CPU tensors or ndarrays, the same size on all ranks.

    Args:
        rank: of this process, from 0.
        world: number of ranks.
        process_group: a group that moves CPU tensors (gloo, or ``"cpu:gloo,cuda:nccl"``); None for the default one, or for
            none where `world` is 1.
    """

    rank: int
    world: int
    process_group: Any = None

    @classmethod
    def alone(cls) -> Group:
        """Return the group of one rank, which needs no process group."""
        return cls(0, 1)

    @classmethod
    def of(cls, process_group: Any = None) -> Group:
        """Return the group of an initialised process group, by default the default one.

        Raises:
            ConfigurationError: there is none.
        """
        dist = _distributed()
        if process_group is None and not dist.is_initialized():
            raise ConfigurationError(
                "Strategies need a process group of torch.distributed, and there is none in this process. With gap.fit, leave "
                "out backend=, and install torch on the driver and on every executor."
            )
        return cls(dist.get_rank(process_group), dist.get_world_size(process_group), process_group)

    @within("communicate")
    def all_reduce_sum_(self, what: Any) -> None:
        """Replace numbers by their sum over the ranks; all get the same bits."""
        if self.world > 1:
            _distributed().all_reduce(_tensor(what), group=self.process_group)

    @within("communicate")
    def broadcast_(self, what: Any, source: int = 0) -> None:
        """Replace numbers by those of one rank."""
        if self.world > 1:
            _distributed().broadcast(_tensor(what), self._global(source), group=self.process_group)

    @within("communicate")
    def gather(self, what: np.ndarray) -> list[np.ndarray]:
        """Return the array of each rank, by rank; they have one shape and type."""
        if self.world == 1:
            return [what]
        parts = [np.empty_like(what) for _ in range(self.world)]
        _distributed().all_gather([_tensor(p) for p in parts], _tensor(what), group=self.process_group)
        return parts

    def send(self, what: Any, to: int, tag: int = 0) -> Any:
        """Begin to send to a rank; returns something to `wait` for."""
        return _distributed().isend(_tensor(what), self._global(to), group=self.process_group, tag=tag)

    def receive_(self, what: Any, source: int, tag: int = 0) -> Any:
        """Begin to receive from a rank; returns something to `wait` for."""
        return _distributed().irecv(_tensor(what), self._global(source), group=self.process_group, tag=tag)

    @within("communicate")
    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            _distributed().barrier(group=self.process_group)

    def _global(self, rank: int) -> int:
        if self.process_group is None:
            return rank
        found: int = _distributed().get_global_rank(self.process_group, rank)
        return found


def broadcast_arrays(arrays: Sequence[np.ndarray], group: Group, source: int = 0) -> list[np.ndarray]:
    """Return the arrays of one rank, to the bit, whatever their types. One message.

    Raises:
        ConfigurationError: the ranks have arrays of other shapes or types.
    """
    if group.world == 1 or not arrays:
        return list(arrays)
    _check_alike(arrays, group)
    data = np.frombuffer(bytearray(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)), np.uint8)
    group.broadcast_(data, source)
    found, place = [], 0
    for array in arrays:
        found.append(data[place : place + array.nbytes].copy().view(array.dtype).reshape(array.shape))
        place += array.nbytes
    return found


def _check_alike(arrays: Sequence[np.ndarray], group: Group) -> None:
    said = repr([(a.shape, a.dtype.str) for a in arrays]).encode()
    digests = group.gather(np.frombuffer(bytearray(hashlib.sha256(said).digest()), np.uint8))
    other = [rank for rank, digest in enumerate(digests) if not np.array_equal(digest, digests[0])]
    if other:
        raise ConfigurationError(
            f"Ranks {other} have another model than rank 0: the shapes or types of its arrays differ. Make the same model on "
            "all ranks."
        )


def _distributed() -> Any:
    return need("torch.distributed", extra="torch", why="to train on more than one worker")


def _tensor(what: Any) -> Any:
    """Return a tensor over the memory of an ndarray; a tensor as it is."""
    if isinstance(what, np.ndarray):
        return need("torch", extra="torch", why="to train on more than one worker").from_numpy(what)
    return what
