"""One gang: N ranks at the same time, each in a process of its own in a Spark task. Driver side.

A rank is an item of a run of tasks (`sparkgap.scheduled`), which brings the supervised process, its limits, its output and
its way to the driver. What is added here: all ranks or none, rounds in which they meet, and one cause where they fail.
No barrier of Spark's is needed, so it works where executors come and go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkgap._errors import RankError, SessionError
from sparkgap.cooperative.causes import Failure, Inquiry
from sparkgap.cooperative.coordinator import JOIN, Coordinator, OutOfStep
from sparkgap.scheduled._sources import with_sources
from sparkgap.scheduled.api import limits_of, start
from sparkgap.scheduled.handle import TaskRun
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Ending
from sparkgap.scheduled.resources import Placement
from sparkgap.scheduled.runner import Item, Later, Options

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GRACE_SECONDS = 1.0
"""After a rank that only says that a peer has gone, so long for the peer's own end to be told."""
ABORT_SECONDS = 5.0
"""A rank that hangs has so long to tell where."""


@dataclass(frozen=True)
class Crew:
    """What a gang is made of.

    Args:
        world: ranks.
        place: where they can be.
        join: seconds until all of them must have begun.
        timeout: seconds that all of it may take; None for no limit.
        memory: bytes a rank.
        preload: modules to import before processes are forked.
        data: values for each node.
        title: for people.
        kind: of the run, for the monitor.
        details: facts for people.
    """

    world: int
    place: Placement
    join: float
    timeout: float | None = None
    memory: int | str | None = None
    preload: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    kind: str = "train"
    details: Mapping[str, str] = field(default_factory=dict)


class Gang:
    """N ranks of one function, once.

    Args:
        crew: what it is made of.
        function: called with a rank in each process; picklable.
        answer: answers what ranks ask besides `gather`, in a thread of the run.
    """

    def __init__(
        self, crew: Crew, function: Callable[[int], Any], answer: Callable[[int, Mapping[str, Any]], Any] | None = None
    ) -> None:
        self._crew = crew
        self._function = function
        self._answer = answer
        self._coordinator = Coordinator(crew.world)
        self._inquiry = Inquiry(crew.world)
        self._run: TaskRun | None = None
        self._started = threading.Event()
        self._error: RankError | None = None
        self._timers: list[threading.Timer] = []

    def run(self, spark: SparkSession) -> list[Any]:
        """Run it to its end.

        Returns:
            What the function gave in each rank.

        Raises:
            SessionError: the cluster has too few slots for all ranks at once.
            RankError: a rank failed; it tells of the one that failed first.
            RunError: the run could not go on.
        """
        crew = self._crew
        if crew.place.parallel < crew.world:
            raise SessionError(
                f"{crew.world} workers were asked for, and {crew.place.parallel} can run at the same time (tasks of "
                f"{crew.place.cpus} core{'s' * (crew.place.cpus != 1)}). Ask for workers={crew.place.parallel}, or give Spark "
                "more cores."
            )
        limits = limits_of(
            crew.place, timeout=crew.timeout, memory=crew.memory, fresh=True, preload=crew.preload, result_limit=2 << 30
        )
        run = start(
            spark, self._function, (Item(rank, rank) for rank in range(crew.world)), Journal.temporary(), title=crew.title,
            details={**crew.details, "workers": str(crew.world)}, place=crew.place, limits=limits, data=crew.data,
            options=Options(crew.world, stop_at_first=False, single=True, losses=0), kind=crew.kind,
            told=self._told, asked=self._asked,
        )  # fmt: skip
        with run:
            self._run = run
            self._started.set()
            self._after(crew.join, self._absent)
            try:
                run.wait()
                if self._error is not None:
                    raise self._error
                return run.values()
            finally:
                for timer in self._timers:
                    timer.cancel()

    # in the thread of the run

    def _asked(self, item: Item, question: Mapping[str, Any]) -> Any:
        if question.get("do") != "gather":
            if self._answer is None:
                raise ValueError(f"nobody answers {question.get('do')!r} in this run")
            return self._answer(item.index, question)
        later = Later()
        try:
            for one in self._coordinator.gather(item.index, question, later):
                one.token.give(one.values)
        except OutOfStep as error:
            self._end(RankError(f"The workers do not fit together: {error}", item.index))
        return later

    def _told(self, item: Item, ending: Ending) -> None:
        rank = item.index
        self._coordinator.over(rank)
        if ending.kind == "ok":
            self._inquiry.well(rank)
            if stuck := self._coordinator.stuck():
                self._end(RankError(f"The workers do not fit together: {stuck}", rank))
            return
        texts = ending.texts
        traceback = with_sources(texts.get("traceback", ""))
        step = self._inquiry.failed(Failure(rank, ending.kind, texts.get("error", ""), texts.get("message", ""), traceback))
        if step == "decide":
            self._decide()
        elif step == "grace":
            self._after(GRACE_SECONDS, self._look_for_hung)

    def _look_for_hung(self) -> None:
        """Have the ranks that neither failed nor ended say where they are, if others wait for them."""
        hung = self._inquiry.hung()
        for rank in hung:
            self._the_run().abort(rank)
        if hung:
            self._after(ABORT_SECONDS, self._decide)
        else:
            self._decide()

    def _decide(self) -> None:
        self._end(error_of(self._inquiry.cause, self._crew.world))

    def _absent(self) -> None:
        """End it where ranks have not begun."""
        missing = self._coordinator.missing(JOIN)
        if not missing or self._inquiry.failures:
            return
        names = f"rank{'s' * (len(missing) != 1)} {', '.join(map(str, missing))}"
        message = (
            f"{names[0].upper()}{names[1:]} of {self._crew.world} did not begin within {self._crew.join:g} s: other jobs may "
            "have taken its slot, or its imports take too long. Free slots, ask for fewer workers=, or raise join_timeout=."
        )
        self._end(RankError(message, missing[0], "absent"))

    def _end(self, error: RankError) -> None:
        self._error = self._error or error
        self._the_run().cancel(error, wait=False)

    # any thread

    def _the_run(self) -> TaskRun:
        self._started.wait()
        assert self._run is not None
        return self._run

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, partial(self._call, what))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _call(self, what: Callable[[], None]) -> None:
        self._the_run().call(what)


_DIED = {
    "signal": "died", "memory": "was killed", "exit": "ended itself", "lost": "vanished with its executor",
    "aborted": "hung", "timeout": "took too long",
}  # fmt: skip


def error_of(failure: Failure, world: int) -> RankError:
    """Return the error that tells of a rank's failure."""
    what = f"raised {failure.error}" if failure.kind == "exception" else _DIED.get(failure.kind, "failed")
    told = failure.message.replace("The item's", "Its").replace("The item", "It")
    message = f"Rank {failure.rank} of {world} {what}: {told}"
    if failure.kind == "aborted":
        message = (
            f"Rank {failure.rank} of {world} hung: the others waited for it in vain, and it was ended to see where it was. "
            "Its stacks follow."
        )
    return RankError(message, failure.rank, failure.kind, failure.error, failure.traceback)
