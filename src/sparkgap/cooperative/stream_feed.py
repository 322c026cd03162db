"""The rows of a DataFrame, streamed into the ranks, as `worker.batches` gives them. In each rank.

All ranks take every step. A rank says how many batches it could draw; all draw as many as the one with the fewest. When
nothing more comes, ranks send each other rows until the rests are equal, so that the last batches are those of shards: whole
ones, and then one that is short, of which some ranks may get no row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.intake import Intake
from sparkgap.cooperative.rank import Place, RankPlan, gather
from sparkgap.cooperative.row_window import Line, RowBuffer, Window
from sparkgap.cooperative.stream_plan import ROOM_BYTES, WINDOW_ROWS, Room, part_of, tail, transfers, wanted
from sparkgap.cooperative.stream_wire import Hall
from sparkgap.scheduled import asking
from sparkgap.shards.conform import Field
from sparkgap.tensors.spec import Block

_log = logging.getLogger("sparkgap.train")

BEGIN, ABANDON = "stream", "abandon"
"""What rank 0 asks of the driver: a pass, or that one ends early."""
ASK_SECONDS = 600.0


@dataclass
class StreamRows:
    """What a rank has instead of shards. A value that travels, until it is bound.

    Args:
        fields: the columns.
        key: of the training, for connections.
    """

    fields: tuple[Field, ...]
    key: str = field(repr=False)
    digest = "stream"

    def bound(self, place: Place, plan: RankPlan) -> BoundRows:
        """Return the rows of one rank."""
        return BoundRows(self, place, plan)


class BoundRows:
    """The rows of one rank.

    Args:
        source: of all ranks.
        place: of this one.
        plan: of the gang.
    """

    digest = "stream"

    def __init__(self, source: StreamRows, place: Place, plan: RankPlan) -> None:
        self.source, self.place, self.plan = source, place, plan
        self.passes = 0
        self._intake: Intake | None = None
        self._hall: Hall | None = None

    @property
    def intake(self) -> Intake:
        """Where rows come; opened by the first pass."""
        if self._intake is None:
            self._intake = Intake(self.place.address, self.source.fields, self.source.key)
        return self._intake

    @property
    def hall(self) -> Hall:
        """Where all ranks listen; the first use is a round of all of them."""
        if self._hall is None:
            ports = gather("intake", [self.place.address, self.intake.port], self.plan.deadline)
            self._hall = Hall(tuple((host, int(port)) for host, port in ports), self.source.key)
        return self._hall

    def to_numpy(
        self, batch_size: int, *, columns: Sequence[str] | None = None, shuffle: str | None = "full", seed: int = 0,
        epoch: int = 0, last: str = "short", start: int = 0, **_: Any,
    ) -> StreamFeed:  # fmt: skip
        """Begin a pass; see `Shards.to_numpy`, whose options these are.

        Raises:
            ConfigurationError: an option makes no sense for rows that come once.
        """
        names = tuple(one.name for one in self.source.fields)
        if absent := [name for name in columns or () if name not in names]:
            raise ConfigurationError(f"There is no column {absent[0]!r} in the DataFrame; there are: {', '.join(names)}.")
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}: a number of rows from 1 on.")
        if shuffle not in ("full", "window", None):
            raise ConfigurationError(f'shuffle is {shuffle!r}: "full", "window" or None.')
        if last not in ("short", "drop"):
            raise ConfigurationError(f'last is {last!r}, and with feed="stream" it is "short" or "drop".')
        if shuffle == "full" and self.place.rank == 0 and not self.passes:
            _log.info(
                "Rows that are streamed are shuffled in windows of %d rows a worker (or %d MiB), not over the whole table.",
                WINDOW_ROWS, ROOM_BYTES >> 20,
            )  # fmt: skip
        rows: RowBuffer = Line() if shuffle is None else Window((seed, epoch, self.place.rank))
        room = Room(part_of(batch_size, self.place.rank, self.place.world), WINDOW_ROWS if shuffle else 0)
        self.passes += 1
        return StreamFeed(self, batch_size, tuple(columns or names), room, rows, drop=last == "drop")


class StreamFeed:
    """The batches of one pass; an iterator. Leaving it early: `close()`, or use it in `with`.

    Args:
        source: the rows.
        batch_size: of all ranks.
        columns: that are given.
        room: how many rows are kept here.
        rows: keeps them.
        drop: whether a short last batch is left out.

    Attributes:
        position: rows that were given, over all ranks.
        dropped: rows that were left out, over all ranks; known at the end.
        padded: none.
    """

    def __init__(
        self, source: BoundRows, batch_size: int, columns: tuple[str, ...], room: Room, rows: RowBuffer, *, drop: bool
    ) -> None:
        self._source = source
        self._batch_size = batch_size
        self._columns = columns
        self._room = room
        self._rows = rows
        self._drop = drop
        self._over = False
        self._number = source.passes
        self.position = self.dropped = self.padded = 0
        self._steps = self._all()

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        total, block = next(self._steps)
        self.position += total
        return {name: block[name] for name in self._columns}

    def __enter__(self) -> StreamFeed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None and kind is not GeneratorExit)

    def close(self, *, failed: bool = False) -> None:
        """Take no more rows; the job that makes them is ended. Where this worker has failed, the driver sees that itself."""
        self._source.intake.leave()
        if not self._over and not failed and self._source.place.rank == 0:
            asking.ask({"do": ABANDON, "number": self._number}, timeout=ASK_SECONDS)
        self._over = True

    def _all(self) -> Iterator[tuple[int, Block]]:
        source, intake, deadline = self._source, self._source.intake, self._source.plan.deadline
        intake.begin(self._number, self._room, self._rows)
        hall = source.hall
        gather("pass", None, deadline)  # all are ready for rows
        if source.place.rank == 0:
            asking.ask({"do": BEGIN, "number": self._number, "places": [list(p) for p in hall.places]}, timeout=ASK_SECONDS)
        while True:
            said = gather("steps", [*intake.ready(deadline), intake.shapes()], deadline)
            if any(over for _, over, _ in said):
                break
            intake.expect(shapes for *_, shapes in said)
            for _ in range(min(steps for steps, *_ in said)):
                yield self._batch_size, intake.take(self._room.part)
        told = gather("rest", [intake.rest(), intake.shapes()], deadline)
        intake.expect(shapes for _, shapes in told)
        yield from self._tail([rows for rows, _ in told], hall)

    def _tail(self, have: list[int], hall: Hall) -> Iterator[tuple[int, Block]]:
        place, intake = self._source.place, self._source.intake
        steps = tail(sum(have), self._batch_size, drop=self._drop)
        self.dropped = sum(have) - sum(steps)
        want = wanted(steps, place.world)
        for giver, taker, rows in transfers(have, want):
            if giver == place.rank:
                intake.give(hall, taker, rows)
        intake.holds(want[place.rank])
        self._over = True
        for total in steps:
            yield total, intake.take(part_of(total, place.rank, place.world))
