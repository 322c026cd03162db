"""`feed="stream"`: the passes over a DataFrame whose rows go straight into the ranks. Driver side.

A pass is a Spark job of its own beside the gang: each of its tasks computes one partition and deals the rows out to the ranks
over connections. The ranks stay what they are with shards, items of a run, and leave at least one slot free for this job.

The other way would be a barrier stage over the DataFrame whose tasks are the ranks, as in `gap.cooperate`. It needs no
free slot, but:

- A barrier stage has as many partitions as tasks, and Spark allows no `coalesce` in it. A DataFrame with any other number of
  partitions would go through a shuffle: all of its rows on disk before the first one reaches a rank.
- A stage reads its rows once, and its processes end with it. Here each epoch is a job, and the ranks stay.
- Ranks would get whole partitions, however uneven. Here each partition is dealt out to all of them.
- A rank's failure would be Spark's to handle, which tries the stage again from its start. Here it is the gang's, with its one
  cause, its checkpoints and its deadlines, and executors may come and go.

The job must never wait for slots that the ranks hold, so a training with too few slots is refused before it begins.
"""

from __future__ import annotations

import logging
import secrets
import threading
import uuid
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import DataError, RankError, SessionError, SignatureError
from sparkgap._task_errors import ours_in
from sparkgap.cooperative.stream_feed import ABANDON, BEGIN, StreamRows
from sparkgap.cooperative.stream_task import GONE, SCHEMA, PassPlan, close_pass, feed_partition
from sparkgap.cooperative.stream_wire import Hall
from sparkgap.scheduled.resources import Placement, placement
from sparkgap.shards.conform import Field

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_log = logging.getLogger("sparkgap.train")

_MOST_TEXT = 4000


def workers_beside(spark: SparkSession, place: Placement, workers: int | None) -> int:
    """Return how many ranks there are, so that slots are left for the job that makes their rows.

    Args:
        spark: the session.
        place: of the ranks.
        workers: that were asked for; None: three quarters of the slots.

    Raises:
        SessionError: no slot would be left.
    """
    slots = placement(spark, cpus=None, gpus=None, parallel=None).parallel
    each = 1 if place.profile is None else max(1, place.cpus // int(_spark.conf(spark, "spark.task.cpus", "1")))
    most = min(place.parallel, (slots - 1) // each)
    found = max(1, min(most, (slots - max(1, slots // 4)) // each)) if workers is None else workers
    if found > most:
        raise SessionError(
            f'feed="stream" reads the DataFrame in slots besides those of its workers: {found} worker{"s" * (found != 1)} '
            f"and one task that reads need {found * each + 1} slots, and there are {slots}. "
            + (f"Ask for workers={most}, give Spark more cores" if most else "Give Spark more cores")
            + ', or use feed="shards".'
        )
    return found


def rows_of_stream(df: DataFrame) -> StreamRows:
    """Return what ranks need to know of a DataFrame that is streamed.

    Raises:
        SignatureError: a column has a type that does not reach Python.
    """
    fields = []
    for name, kind in _spark.arrow_types(df.schema).items():
        if kind is None:
            raise SignatureError(f"Column `{name}` has a type that does not reach Python. Cast it, or leave it away.")
        fields.append(Field(name, kind))
    return StreamRows(tuple(fields), secrets.token_hex())


class Passes:
    """The passes of one gang. Use it in `with`: at the end of the block no job runs any more.

    Args:
        df: the rows.
        rows: what the ranks know of them.
    """

    def __init__(self, df: DataFrame, rows: StreamRows) -> None:
        self._spark = df.sparkSession
        self._given = _spark.columns(df, tuple(one.name for one in rows.fields))
        self._rows = rows
        self._tag = ""
        self._job: threading.Thread | None = None
        self._ended: set[int] = set()
        self._lock = threading.Lock()
        self._closing = False
        self.error: BaseException | None = None

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(-1)
        if self._job is not None:
            self._job.join()

    def answer(self, rank: int, question: Mapping[str, Any]) -> bool:
        """Do what rank 0 asks; returns at once."""
        match question.get("do"):
            case do if do == BEGIN:
                hall = Hall(tuple((host, int(port)) for host, port in question["places"]), self._rows.key)
                plan = PassPlan(int(question["number"]), hall, self._rows.fields)
                before, self._tag = self._job, f"sparkgap-{uuid.uuid4().hex}"
                self._job = threading.Thread(
                    target=self._work, args=(plan, self._tag, before), name="sparkgap-pass", daemon=True
                )
                self._job.start()
            case do if do == ABANDON:
                self._end(int(question["number"]))
            case other:
                raise ValueError(f"nobody answers {other!r} in this run")
        return True

    def failure(self, error: RankError) -> BaseException:
        """Return what ended the gang: where the DataFrame could not be computed, that."""
        return cause_of(error, self.error)

    def _end(self, number: int) -> None:
        """End the job of a pass, or of any; what it says then is of no interest."""
        with self._lock:
            self._ended.add(number)
        if self._job is None or not self._job.is_alive() or self._closing:
            return
        try:
            _spark.cancel_jobs(self._spark, self._tag)
        except Exception as error:  # the session has ended, or its connection: then so has the job
            _log.debug("The job of a pass could not be interrupted: %s", error)

    def _is_ended(self, plan: PassPlan) -> bool:
        with self._lock:
            return -1 in self._ended or plan.number in self._ended

    def _work(self, plan: PassPlan, tag: str, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        self._closing = False
        if self._is_ended(plan):
            return
        try:
            _spark.tag_jobs(self._spark, tag)
            facts = self._pass(plan)
        except Exception as error:  # of many classes, by session and version: it is told as it is
            if self._is_ended(plan):
                return
            self.error = DataError(f"The DataFrame that is streamed to the workers could not be computed: {_text(error)}")
            self.error.__cause__ = error
            facts = {"failure": str(self.error)}
        self._closing = True
        try:
            one = self._spark.range(0, 1, 1, 1)
            one.mapInArrow(partial(close_pass, plan, facts), SCHEMA).collect()
        except Exception as error:
            if not self._is_ended(plan):
                _log.warning("The workers could not be told that pass %d is over: %s", plan.number, _text(error))

    def _pass(self, plan: PassPlan) -> dict[str, Any]:
        sums = [0] * len(plan.hall.places)
        for row in self._given.mapInArrow(partial(feed_partition, plan), SCHEMA).collect():
            sums[row["rank"]] += row["rows"]
        return {"rows": sums}


def cause_of(gang: RankError, computing: BaseException | None) -> BaseException:
    """Return which of the two came first: how the gang ended, or how the DataFrame failed.

    Where a job ends while one of its tasks is starting a Python worker, Spark takes its daemon of Python workers for lost, and
    kills it: with it go ranks that had no part in it, and may be told of first.
    """
    if computing is None:
        return gang
    told = str(computing)
    return computing if told in gang.message or (gang.kind == "lost" and GONE not in told) else gang


def _text(error: Exception) -> str:
    """Return what is worth reading of an error of Spark's."""
    text = str(error)
    own = ours_in(text)
    return text[:_MOST_TEXT] if own is None else str(own)
