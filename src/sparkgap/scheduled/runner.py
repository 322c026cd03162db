"""The driver's side of a run: performs what the schedule commands. One thread that waits, and never sleeps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from sparkgap._errors import DataError, RunCancelledError, RunError
from sparkgap.scheduled import desk as desks
from sparkgap.scheduled.frames import Frame
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Ending, encode, encode_value, error_of, is_ok
from sparkgap.scheduled.report import Columns
from sparkgap.scheduled.schedule import MAX_LOSSES, MESSAGES, Close, Command, Kill, Lease, Leasing, Recall, Schedule, Settle

_log = logging.getLogger("sparkgap.scheduled")

FLUSH_SECONDS = 1.0
"""A journal is on disk after so long at the latest."""
MAX_FEED = 4096
MAX_BARREN = 5
"""So many slots one after the other that end before they have given anything, and the run is given up."""
CLOSE_SECONDS = 10.0
"""Slots have so long to leave before their jobs are ended, """
START_SECONDS = 2.0
"""and so long where they are still starting: killing a worker that starts costs the next run more than that."""


@dataclass(frozen=True, slots=True)
class Item:
    """An item on its way.

    Attributes:
        index: its number in the run.
        value: what the function gets.
        identity: in the journal; b"" where that is not kept.
        kept: the item itself for the journal, pickled, where nothing else remembers it.
    """

    index: int
    value: Any
    identity: bytes = b""
    kept: bytes = b""


@dataclass(frozen=True)
class Fed:
    """More items."""

    items: list[Item]


@dataclass(frozen=True)
class Refused:
    """Items that can be sent, of a lease in which others cannot."""

    slot: int
    lease: int
    items: list[int]


@dataclass(frozen=True)
class Dry:
    """No more items; `error` where the user's iterable raised."""

    error: BaseException | None = None


@dataclass(frozen=True)
class SlotEnded:
    """The Spark job of a slot is over.

    Attributes:
        number: of the slot's place.
        status: ``"closed"``, ``"unreachable"``, ``"abandoned"``, or ``"failed"``: then Spark's error is the message.
    """

    number: int
    status: str
    message: str


class Talk(Protocol):
    """What the runner hears of slots and says to them: see `desk.Desk`, whose methods these are."""

    def post(self, what: Any) -> None:
        """Hand something to the thread that polls."""
        ...

    def poll(self, seconds: float | None) -> list[Any]:
        """Wait for news."""
        ...

    def send(self, slot: int, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Say something to a slot."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


@dataclass(frozen=True)
class Way:
    """How a run reaches the cluster.

    Args:
        desk: talks to slots.
        open_slot: starts the slot of one place; must return at once, and post `SlotEnded` to the desk in the end.
        stop_slots: ends all Spark jobs of the run; called where they do not end by themselves.
        leasing: how much a lease holds.
    """

    desk: Talk
    open_slot: Callable[[int], None]
    stop_slots: Callable[[], None]
    leasing: Leasing = MESSAGES


@dataclass(frozen=True)
class Cancel:
    """End it."""

    why: BaseException


@dataclass(frozen=True)
class Call:
    """Something to be done in the thread of the run."""

    what: Callable[[], None]


class Later:
    """The answer to a question that is not known yet. What `asked` may return; used in the thread of the run only."""

    def __init__(self) -> None:
        self._send: Callable[[Any], None] | None = None
        self._value: list[Any] = []

    def give(self, value: Any) -> None:
        """Answer the question: JSON values."""
        self._value = [value]
        if self._send is not None:
            self._send(value)

    def bind(self, send: Callable[[Any], None]) -> None:
        """Set how the answer travels."""
        self._send = send
        if self._value:
            send(self._value[0])


@dataclass(frozen=True)
class Options:
    """How a run behaves.

    Args:
        parallel: slots at most.
        retries: further attempts of an item that failed.
        backoff: seconds before the first of them.
        stop_at_first: end the run at the first item without a value.
        single: one item at a time to each slot, asked for when the slot is free.
        losses: how often an item is tried again whose slot has vanished.
    """

    parallel: int
    retries: int = 0
    backoff: float = 0.0
    stop_at_first: bool = True
    single: bool = False
    losses: int = MAX_LOSSES


class Runner:
    """Runs items to their end, in a thread of its own.

    Args:
        items: what to run, as it comes.
        way: how it reaches the cluster.
        journal: where outcomes go.
        fallback: makes another way, for slots that cannot reach this process; None: there is none.
        pickled: turns a list of items into bytes.
        options: how it behaves.
        told: called with an item and its ending, in the runner's thread, before readers see it.
        asked: answers a question of an item's task, in the runner's thread; what it raises is the answer, too.
    """

    def __init__(
        self,
        items: Iterator[Item],
        way: Way,
        journal: Journal,
        *,
        fallback: Callable[[], Way] | None = None,
        pickled: Callable[[list[Any]], bytes],
        options: Options,
        told: Callable[[Item, Ending], None] | None = None,
        asked: Callable[[Item, Any], Any] | None = None,
    ) -> None:
        self._items = items
        self._way = way
        self._fallback = fallback
        self._posting = threading.Lock()
        self._pickled = pickled
        self._options = options
        self._told = told
        self._asked = asked
        self._schedule = Schedule(
            retries=options.retries, backoff=options.backoff, single=options.single, losses=options.losses, leasing=way.leasing
        )
        self._under_way: dict[int, Item] = {}
        self._offered = 0
        self._places: dict[int, bool] = {}  # open places -> whether a slot of it has connected
        self._hosts: dict[int, str] = {}
        self._free = list(range(options.parallel - 1, -1, -1))
        self._barren = 0
        self._demand = 0
        self._hungry = threading.Condition()
        self._dry = False
        self._closing = 0.0
        self._flush_at = 0.0
        self._earlier = journal.known(is_ok)
        self.journal = journal
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.over = self.ended = self._released = False
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name="sparkgap-run", daemon=True)
        self._feeder = threading.Thread(target=self._feed, name="sparkgap-run-items", daemon=True)

    @property
    def stops_at_first(self) -> bool:
        """Whether the first item without a value ends the run."""
        return self._options.stop_at_first

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._feeder.start()

    def offer(self, items: list[Item]) -> None:
        """Give items besides those of the iterator, without being asked. Any thread."""
        self._post(Fed(items))

    def cancel(self, why: BaseException | None = None) -> None:
        """End the run: what runs is killed. Any thread; returns at once."""
        self._post(Cancel(why or RunCancelledError("The run was cancelled.")))

    def call(self, what: Callable[[], None]) -> None:
        """Have something done in the thread of the run, where `told` and `asked` are called. Any thread."""
        self._post(Call(what))

    def abort(self, index: int) -> None:
        """Have the process of an item end with a dump of its stacks: the item then has the kind ``"signal"``.

        In the thread of the run; nothing happens where the item is in no slot.
        """
        for number, item in self._under_way.items():
            if item.index == index and (slot := self._schedule.holder(number)) is not None:
                self._way.desk.send(slot, "abort")

    def release(self) -> None:
        """Note that nobody will read outcomes any more: the run is cancelled if need be, and its journal closed."""
        with self.changed:
            self._released = True
            ended = self.ended
        if ended:
            self.journal.close()
        else:
            self.cancel()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until nothing of the run is left, on the driver or in its slots; False where that took longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _post(self, news: Fed | Dry | Cancel | Call) -> None:
        with self._posting:
            self._way.desk.post(news)

    # the thread of the items

    def _feed(self) -> None:
        try:
            while True:
                with self._hungry:
                    self._hungry.wait_for(lambda: self._demand > 0 or self._dry)
                    if self._dry:
                        return
                    wanted = min(self._demand, MAX_FEED)
                    self._demand = 0
                taken = list(islice(self._items, wanted))
                if taken:
                    self._post(Fed(taken))
                if len(taken) < wanted:
                    self._post(Dry())
                    return
        except BaseException as error:  # of the user's iterable: it ends the run, and is raised where that is read
            self._post(Dry(error))

    def _want(self, count: int) -> None:
        with self._hungry:
            self._demand = count
            self._hungry.notify()

    # the thread of the run

    def _run(self) -> None:
        try:
            self._want(1)
            while not self._finished():
                self._hear_all(self._way.desk.poll(self._pause()), self._way)
                self._look_after()
        except BaseException as error:
            self._end(error)
            _log.exception("The run has ended, as its driver's side has failed.")
        finally:
            self._end(self.error)
            self._way.stop_slots()
            self._way.desk.close()
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            if self._released:
                self.journal.close()

    def _finished(self) -> bool:
        """Whether nothing is left, or what is left has had its time; a slot that has not even connected has less."""
        if not self.over or not self._places:
            return self.over
        return time.monotonic() >= self._closing - (0 if any(self._places.values()) else CLOSE_SECONDS - START_SECONDS)

    def _pause(self) -> float | None:
        over = (self._closing - CLOSE_SECONDS + START_SECONDS, self._closing) if self.over else ()
        now = time.monotonic()
        due = (self._schedule.next_time(), self._flush_at or None, *(t for t in over if t > now))
        times = [t for t in due if t is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _hear_all(self, told: list[Any], way: Way) -> None:
        """Take what came on a way; once that is given up, what slots say on it counts no more."""
        for news in told:
            if way is self._way or isinstance(news, Fed | Dry | Cancel | Call):
                self._take(news)

    def _take(self, news: Any) -> None:
        match news:
            case desks.Said(slot, frame):
                self._hear(slot, frame)
            case desks.Opened(slot, facts):
                self._hosts[slot] = str(facts.get("host", ""))
                self._places[int(facts["number"])] = True
                self._perform(self._schedule.opened(slot))
            case desks.Gone(slot):
                self._hosts.pop(slot, None)
                self._perform(self._schedule.closed(slot))
            case Refused(slot, lease, good):
                self._perform(self._schedule.returned(slot, lease, good))
                self._perform(self._schedule.assign())
            case SlotEnded():
                self._slot_ended(news)
            case _:
                self._take_own(news)

    def _take_own(self, news: Any) -> None:
        """Take what other threads of this process have posted."""
        match news:
            case Fed(items):
                self._offer(items)
            case Dry(error):
                self._dry = True
                if error is not None:
                    self._stop(error)
                else:
                    self._perform(self._schedule.exhausted())
            case Cancel(why):
                self._stop(why)
            case Call(what):
                what()

    def _offer(self, items: list[Item]) -> None:
        if self.over:
            return
        new = [item for item in items if not self._known(item)]
        for item in new:
            self._under_way[self._offered] = item
            self._offered += 1
        if new:
            self._perform(self._schedule.offer(len(new)))

    def _known(self, item: Item) -> bool:
        """Whether an earlier run has this item's outcome; if so it is taken."""
        if not item.identity or item.identity not in self._earlier:
            return False
        self.journal.adopt(item.index, item.identity)
        return True

    def _hear(self, slot: int, frame: Frame) -> None:
        match frame.kind:
            case "ended":
                self._take_endings(slot, frame)
                self.journal.flush()  # what has come in survives the death of this process; a loss of power: see _look_after
                self._perform(self._schedule.assign())
            case "asked":
                self._answer(slot, frame.header)
            case "returned":
                self._perform(self._schedule.returned(slot, frame.header["lease"], frame.header["items"]))

    def _take_endings(self, slot: int, frame: Frame) -> None:
        lease, now = frame.header["lease"], time.monotonic()
        host = frame.header.get("host") or self._hosts.get(slot, "")
        columns = Columns(frame.header, frame.payload)
        if self._told is None and columns.plain:
            self.journal.append_all(self._plain(slot, lease, columns, host.encode()))
            return
        for number, ending in columns.endings(host):
            self._ended(slot, lease, number, ending, now)

    def _plain(self, slot: int, lease: int, told: Columns, host: bytes) -> Iterator[tuple[int, bytes, bytes, bytes]]:
        """Settle items that all have a value and give their records; what `_ended` does, for the thousands of a message."""
        self._barren = 0
        tries = self._schedule.ended_well(slot, lease, told.items, told.seconds)
        for attempts, number, value, seconds, started, rss in zip(
            tries, told.items, told.values(), told.seconds, told.started, told.rss, strict=True
        ):
            if attempts:
                item = self._under_way.pop(number)
                yield item.index, item.identity, encode_value(value, attempts, seconds, started, rss, host), item.kept

    def _ended(self, slot: int, lease: int, number: int, ending: Ending, now: float) -> None:
        attempts = self._schedule.attempts(number)
        verdict = self._schedule.ended(slot, lease, number, ending.kind == "ok", ending.seconds, now)
        if verdict == "over":
            self._settle(number, ending if attempts == 1 else ending._replace(attempts=attempts))

    def _answer(self, slot: int, header: Mapping[str, Any]) -> None:
        item = self._under_way.get(header["item"])
        if item is None or not self._schedule.holds(slot, header["lease"], header["item"]):
            return
        answer: dict[str, Any] = {"id": header["id"]}
        try:
            if self._asked is None:
                raise RuntimeError("nobody answers questions in this run")
            value = self._asked(item, header["question"])
            if isinstance(value, Later):
                value.bind(lambda later: self._way.desk.send(slot, "answer", {"id": header["id"], "value": later}))
                return
            answer["value"] = value
        except Exception as error:  # of any class: it is the task's to deal with
            answer["failure"] = f"{type(error).__name__}: {error}"
        if header["wait"]:
            self._way.desk.send(slot, "answer", answer)

    def _settle(self, number: int, ending: Ending) -> None:
        item = self._under_way.pop(number)
        self._barren = 0
        if self._told is not None:
            try:
                self._told(item, ending)
            except BaseException as error:  # of the user's callbacks: it ends the run, and is raised where that is waited for
                self._stop(error)
        self.journal.append(item.index, item.identity, encode(ending), item.kept)
        if ending.kind != "ok":
            self.failed += 1
            if self._options.stop_at_first:
                self._stop(error_of(f"Item {item.index}", item.index, ending.kind, ending.texts))

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Lease(slot, lease, items):
                    self._give(slot, lease, list(items))
                case Recall(slot):
                    self._way.desk.send(slot, "recall")
                case Kill(slot):
                    self._way.desk.send(slot, "kill")
                case Close(slot):
                    self._way.desk.send(slot, "close")
                case Settle(item):
                    message = "Every executor on which it was tried has vanished; it may be what kills them (memory?)."
                    self._settle(item, Ending("lost", attempts=self._schedule.attempts(item), texts={"message": message}))

    def _give(self, slot: int, lease: int, numbers: list[int]) -> None:
        values = [self._under_way[n].value for n in numbers]
        try:
            payload = self._pickled(values)
        except Exception as error:  # of any class: it is about the user's objects
            _log.debug("A lease holds what cannot be pickled: %s", error)
            self._refuse(slot, lease, numbers)
            return
        self._way.desk.send(slot, "lease", {"lease": lease, "items": numbers}, payload)

    def _refuse(self, slot: int, lease: int, numbers: list[int]) -> None:
        """End the items that cannot be pickled, and give the others back: not here, as this is in the middle of a lease."""
        good = []
        for number in numbers:
            try:
                self._pickled([self._under_way[number].value])
                good.append(number)
            except Exception as own:
                message = f"The item cannot be sent to a task: pickling it raised {type(own).__name__}: {own}"
                ending = Ending("exception", texts={"message": message, "error": type(own).__name__})
                if self._schedule.ended(slot, lease, number, False, 0.0, time.monotonic()) == "over":
                    self._settle(number, ending)
        self._way.desk.post(Refused(slot, lease, good))

    def _slot_ended(self, news: SlotEnded) -> None:
        connected = self._places.pop(news.number, False)
        self._free.append(news.number)
        if self.over:
            return
        if news.status == "unreachable" and self._fallback is not None and not connected and not any(self._places.values()):
            self._change_way(self._fallback, news.message)
        elif news.status == "unreachable":
            self._stop(
                RunError(
                    f"The executors cannot reach this process ({news.message}). Set spark.driver.host to an address of this "
                    "machine that they can reach, and let them through its firewall."
                )
            )
        elif news.status == "failed":
            self._barren += 1
            most = 2 * MAX_BARREN if self._way.leasing.whole else MAX_BARREN  # it takes some to find the item that does it
            if self._barren >= (most if connected else 2):
                self._stop(RunError(f"Slots end before they do anything; the last one failed with: {news.message}"))
            else:
                _log.warning("A slot has ended, and another one is started: %s", news.message.partition("\n")[0])

    def _change_way(self, fallback: Callable[[], Way], why: str) -> None:
        """Go on without slots that connect: none ever has, so nothing was given to any."""
        _log.warning("The executors cannot reach this process (%s): each lease is a Spark job from now on.", why)
        self._fallback, old, new = None, self._way, fallback()
        with self._posting:
            self._way = new
        self._schedule.leasing = new.leasing
        self._free, self._places = list(range(self._options.parallel - 1, -1, -1)), {}
        self._hear_all(old.desk.poll(0), old)
        old.stop_slots()
        old.desk.close()

    def _look_after(self) -> None:
        """Do what is due after some news."""
        now = time.monotonic()
        due = self._schedule.next_time()
        if due is not None and due <= now:
            self._perform(self._schedule.tick(now))
        if not self.over and self._schedule.done:
            self._end(None)
        if not self.over:
            if hunger := self._schedule.hunger():
                self._want(hunger)
            self._open_slots()
        if not self._flush_at:
            self._flush_at = now + FLUSH_SECONDS
        elif self._flush_at <= now:
            self.journal.flush(sync=True)
            self._flush_at = 0.0 if self.over else now + FLUSH_SECONDS
        with self.changed:
            self.changed.notify_all()

    def _open_slots(self) -> None:
        work = self._schedule.waiting + self._schedule.under_way
        wanted = self._options.parallel if not self._dry else min(self._options.parallel, work)
        while self._free and len(self._places) < wanted:
            number = self._free.pop()
            self._places[number] = False
            self._way.open_slot(number)

    def _stop(self, error: BaseException) -> None:
        if not self.over:
            self._perform(self._schedule.cancel())
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Note that no outcome will come any more."""
        if self.over:
            return
        try:
            self.journal.seal()  # no outcome comes any more, and whoever sees the end may want to go on with the file
        except DataError as full:
            error = error or full
        self.error = error
        self._closing = time.monotonic() + CLOSE_SECONDS
        with self._hungry:
            self._dry = True
            self._hungry.notify()
        self.over = True
        with self.changed:
            self.changed.notify_all()
