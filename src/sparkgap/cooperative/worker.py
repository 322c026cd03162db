"""What the function of `gap.train` gets in each rank: its place, its data, its peers, and where progress is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.rank import Place, RankPlan, gather
from sparkgap.cooperative.telling import Pace, rows_of, within
from sparkgap.monitor.reporting import report

if TYPE_CHECKING:
    from sparkgap.cooperative.checkpoints import Checkpoints
    from sparkgap.cooperative.stream_feed import BoundRows
    from sparkgap.shards.batches import Last
    from sparkgap.shards.dataset import Shards
    from sparkgap.shards.order import Shuffle
    from sparkgap.tensors.spec import Block

_log = logging.getLogger("sparkgap.train")

STREAM = "stream"
"""Digest of rows that are streamed."""


class Worker:
    """One rank, in its own process on an executor.

    Args:
        place: where it is among the others.
        plan: what all ranks know.
        data: what it trains on; None where there is nothing.
        checkpoints: where progress is kept; None for nowhere.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number among those of its machine.
        node: number of its machine.
        data: the shards; or what stands for them where rows are streamed.
        epoch: number of the epoch that `batches` is in.
        epochs: how many there will be; 0 where that is not known.
        rows: of its parts of batches so far.
    """

    def __init__(self, place: Place, plan: RankPlan, data: Shards | BoundRows | None, checkpoints: Checkpoints | None) -> None:
        self.rank, self.world, self.local_rank, self.node = place.rank, place.world, place.local_rank, place.node
        self.data = data
        self.epoch = self.epochs = self.rows = 0
        self._position = self._steps = 0
        self._plan = plan
        self._checkpoints = checkpoints
        self._pace = Pace()

    def __repr__(self) -> str:
        return f"Worker(rank={self.rank}, world={self.world}, device={self.device!r})"

    @property
    def device(self) -> str:
        """Where tensors belong: ``"cuda:0"`` where the task has a GPU, else ``"cpu"``."""
        import os

        return "cuda:0" if os.environ.get("CUDA_VISIBLE_DEVICES", "") not in ("", "-1", "NoDevFiles") else "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def batches(
        self,
        batch_size: int,
        *,
        epochs: int = 1,
        columns: Sequence[str] | None = None,
        shuffle: Shuffle = "full",
        seed: int = 0,
        last: Last = "short",
        prefetch: int = 2,
    ) -> Iterator[Block]:
        """Give this rank's part of each batch, as a dict of ndarrays; after `restore`, from where it was saved.

        The order of the rows is one for all ranks together, and the same for any number of them. All ranks get the same
        number of batches; the last one of an epoch may hold no rows for some.

        Args:
            batch_size: rows of a batch over all ranks.
            epochs: how often all rows are seen; those before a checkpoint count.
            columns: which; default all.
            shuffle: ``"full"``, ``"window"`` (bounded memory) or None.
            seed: of the order.
            last: what becomes of a last batch with fewer rows: ``"short"``, ``"drop"`` or ``"pad"``; what is dropped or
                padded is logged.
            prefetch: reads ahead; 0 for none.

        Raises:
            ConfigurationError: there is no data, or an option makes no sense.
        """
        options: dict[str, Any] = {
            "columns": columns, "shuffle": shuffle, "seed": seed, "last": last, "prefetch": prefetch,
        }  # fmt: skip
        self.epochs = epochs
        while self.epoch < epochs:
            for block, _ in self.steps_of_epoch(batch_size, **options):
                yield block

    def steps_of_epoch(self, batch_size: int, **options: Any) -> Iterator[tuple[Block, int]]:
        """Give the rest of the epoch at hand, and begin the next one: this rank's part of each batch, and its rows in all.

        Args:
            batch_size: rows of a batch over all ranks.
            options: see `batches`.
        """
        if self.data is None:
            raise ConfigurationError("worker.batches: gap.train was called without data. Pass a DataFrame or shards.")
        with self.data.to_numpy(
            batch_size, epoch=self.epoch, rank=self.rank, world=self.world, start=self._position, **options
        ) as feed:
            self._position = feed.position  # rows that are streamed begin anew, wherever it was
            for block in self._pace.over(feed):
                self.rows += rows_of(block)
                total, self._position = feed.position - self._position, feed.position
                self._steps += 1
                yield block, total
            if self.is_first and (feed.dropped or feed.padded):
                _log.info("Epoch %d: %d rows dropped, %d padded.", self.epoch, feed.dropped, feed.padded)
        self.epoch += 1
        self._position = 0

    def report(self, step: float | None = None, **values: float) -> None:
        """Report numbers: they are on the driver and on the page within a second; see `gap.report`."""
        report(step, **values)

    def gather(self, value: Any) -> list[Any]:
        """Say something small (JSON values) to all ranks, and return what each has said, by rank; all must do so."""
        return gather("user", value, self._plan.deadline)

    def barrier(self) -> None:
        """Wait for all ranks."""
        gather("barrier", None, self._plan.deadline)

    def average(self, what: Any) -> Any:
        """Replace numbers by their mean over all ranks, which must all do so.

        Args:
            what: a torch module (parameters and floating-point buffers, in place), a torch tensor (in place), an ndarray, a
                number, or a list or dict of these.

        Returns:
            The same, averaged.
        """
        if self.world == 1:
            return what
        from sparkgap.cooperative.averaging import mean_of

        with within("communicate"):
            return mean_of(what, self.world)

    def save(self, state: Mapping[str, Any], **facts: Any) -> None:
        """Keep a checkpoint: the state of rank 0, and the position in the data. All ranks call it, and wait.

        Args:
            state: nested dicts and lists of arrays, tensors, numbers and strings: ``{"net": net.state_dict(), …}``.
            facts: small JSON values for people: ``loss=0.1``.

        Raises:
            ConfigurationError: `gap.train` was called without ``checkpoint=``.
            DataError: it cannot be written.
        """
        kept = self._kept()
        with within("checkpoint"):
            gather("save", None, self._plan.deadline)  # a checkpoint says that all ranks have come so far
            if self.is_first:
                position = {"epoch": self.epoch, "position": self._position, "steps": self._steps, "data": self._digest()}
                kept.save(self._steps, {"state": dict(state), "sparkgap": position}, facts)
            gather("saved", None, self._plan.deadline)

    def restore(self) -> Any:
        """Return the state of the last whole checkpoint, and go on in the data from there; None where there is none.

        All ranks call it, before `batches`, and get the same; their number may differ from the one that saved it. With
        ``feed="stream"`` the epoch begins again, as rows that are streamed have no position.

        Raises:
            ConfigurationError: `gap.train` was called without ``checkpoint=``, or the checkpoint lies in the middle of an
                epoch of other data, or of the same rows in another order.
            DataError: there are checkpoints, and all of them are damaged.
        """
        found = self._kept().latest()
        steps = {-1 if s is None else s for s in self.gather(None if found is None else found.step)}
        if len(steps) > 1:
            raise ConfigurationError(
                f"The ranks see different checkpoints (steps {sorted(steps)}). checkpoint= must be a folder that all machines "
                "share."
            )
        if found is None:
            return None
        kept = found.state["sparkgap"]
        if kept["position"] and self._digest() == STREAM:
            _log.warning(
                "The checkpoint of step %d lies in the middle of epoch %d. Rows that are streamed have no position: the epoch "
                "begins again with its first row, and %d rows are seen again.", found.step, kept["epoch"], kept["position"],
            )  # fmt: skip
            kept = {**kept, "position": 0}
        if kept["position"] and kept["data"] != self._digest():
            raise ConfigurationError(
                f"The checkpoint of step {found.step} lies in the middle of epoch {kept['epoch']}, and the data is not what it"
                " was made with: other rows, or another order. Spark may give the rows of a DataFrame in another order each "
                "time: write them once with gap.write_shards(df, path), and pass these."
            )
        self.epoch, self._position, self._steps = int(kept["epoch"]), int(kept["position"]), int(kept["steps"])
        return found.state["state"]

    @property
    def steps(self) -> int:
        """Batches that `batches` has given, those before a checkpoint included."""
        return self._steps

    def _digest(self) -> str:
        return "" if self.data is None else self.data.digest

    def _kept(self) -> Checkpoints:
        if self._checkpoints is None:
            raise ConfigurationError("worker.save and worker.restore need gap.train(..., checkpoint=folder).")
        return self._checkpoints
