"""All-reduce of PyTorch models by `DistributedDataParallel`: gradients travel while others are still being computed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._optional import need
from sparkgap.cooperative.strategies.base import Batch, Run, check_rows
from sparkgap.cooperative.strategies.flat import average_buffers, equalise
from sparkgap.cooperative.telling import turn, within

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.torch_trainable import TorchTrainable

_STAND_IN_ROWS = 2  # batch normalisation refuses to learn from one


class DdpRun(Run):
    """One PyTorch model, wrapped.

    DDP takes the mean over ranks, which is wrong where they have different numbers of rows; a hook takes the sum of
    gradients weighted by rows instead. A rank without rows must take part in every message: it computes on a batch of zeros,
    and its gradients count as zero.

    Args:
        trainable: of PyTorch; its `loss_of`, `backward` and `update` are used, so gradients stay where they are.
        group: the ranks.
        bucket_mb: MiB of gradients in a message.
        find_unused: a forward pass may leave parameters out.
    """

    def __init__(self, trainable: TorchTrainable, group: Group, *, bucket_mb: float, find_unused: bool) -> None:
        torch = need("torch", extra="torch", why="to train a PyTorch model")
        self._trainable, self._group = trainable, group
        self._weight = 1.0
        equalise(trainable, group)
        wrapped = torch.nn.parallel.DistributedDataParallel(
            trainable.module, process_group=group.process_group, bucket_cap_mb=bucket_mb, **_buffers_stay(torch),
            find_unused_parameters=find_unused,
        )  # fmt: skip
        wrapped.register_comm_hook(None, _typed(self._send, torch))
        trainable.wrap(wrapped)

    def _send(self, state: None, bucket: Any) -> Any:
        """Begin to sum one message of gradients over the ranks, weighted. Called by DDP during ``backward``."""
        del state
        dist = need("torch.distributed", extra="torch", why="to train on more than one worker")
        gradients = bucket.buffer()
        gradients.mul_(self._weight) if self._weight else gradients.zero_()  # zero also what is not finite
        work = dist.all_reduce(gradients, group=self._group.process_group, async_op=True)
        if bucket.is_last():  # nothing is left to compute: the rest of `backward` waits
            turn("communicate")
        return work.get_future().then(lambda done: done.value()[0])

    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step; returns the mean loss over this rank's rows."""
        check_rows(batch, rows, total)
        self._weight = rows / total
        self._trainable.module.zero_grad(set_to_none=True)
        loss = self._backward(batch) if rows else self._without_rows(batch)
        self._trainable.update()
        return loss

    def _backward(self, batch: Batch) -> float:
        """Compute gradients and let `_send` exchange them; returns the mean loss."""
        loss = self._trainable.loss_of(batch)
        with within("compute"):
            self._trainable.backward(loss)
        return float(loss.detach())

    def _without_rows(self, batch: Batch) -> float:
        """Take part in the exchange; the batch of zeros leaves no trace in the buffers."""
        kept = [array.copy() for array in self._trainable.buffers()]
        zeros = {name: np.zeros((_STAND_IN_ROWS, *column.shape[1:]), column.dtype) for name, column in batch.items()}
        self._backward(zeros)
        self._trainable.load_buffers(kept)
        return 0.0

    def finish(self) -> None:
        """Average the buffers: each rank has seen other rows. The parameters are equal already."""
        average_buffers(self._trainable, self._group)


def _buffers_stay(torch: Any) -> dict[str, bool]:
    """Return the option by which each rank keeps its own buffers in a forward pass; PyTorch 2.13 renamed it."""
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _typed(hook: Any, torch: Any) -> Any:
    """Return a hook with the annotations that DDP looks for, which must be classes of a torch that is loaded by now."""

    def typed(state, bucket):  # type: ignore[no-untyped-def]
        return hook(state, bucket)

    typed.__annotations__ = {"bucket": torch.distributed.GradBucket, "return": torch.futures.Future[torch.Tensor]}
    return typed
