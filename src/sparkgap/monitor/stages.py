"""How many tasks a stage has: the one thing that tasks cannot tell, so Spark is asked."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap.monitor import events
from sparkgap.monitor.store import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVERY = 0.5


class StageWatch:
    """Tells the store of the stages that its runs work in.

    Args:
        store: whose runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions: weakref.WeakSet[Any] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def watch(self, spark: SparkSession) -> None:
        """Ask this session from now on."""
        if spark in self._sessions:
            return
        self._sessions.add(spark)
        if _spark.is_connect(spark):
            spark.registerProgressHandler(self._told)
        elif self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sparkgap-stages", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _told(self, stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Connect's progress handler; its shape is fixed by PySpark."""
        open_ones = self._store.open_stages()
        for stage in stages or ():
            if stage.stage_id in open_ones:
                self._say(open_ones[stage.stage_id], stage.stage_id, stage.num_tasks, bool(stage.done) or done)

    def _work(self) -> None:
        version = -1
        while not self._stop.is_set():
            # A stage whose processes were killed ends without a word.
            version = self._store.wait(version, EVERY if self._store.open_stages() else 60.0)
            if self._store.open_stages():
                self._ask()
            self._stop.wait(EVERY)

    def _ask(self) -> None:
        from py4j.protocol import Py4JError  # type: ignore[import-untyped]

        for spark in list(self._sessions):
            if _spark.is_connect(spark):
                continue
            try:
                tracker = spark.sparkContext.statusTracker()
                for stage, run in self._store.open_stages().items():
                    info = tracker.getStageInfo(stage)
                    if info is not None:
                        over = not info.numActiveTasks and stage not in tracker.getActiveStageIds()
                        self._say(run, stage, info.numTasks, over)
            except (Py4JError, OSError, AttributeError):
                self._sessions.discard(spark)  # it has ended

    def _say(self, run: str, stage: int, count: int, done: bool) -> None:
        with self._store.reading(run) as state:
            known = state.stages.get(stage) if state is not None else None
            if known is not None and (known.count, known.done) == (count, done):
                return
        self._store.say(events.StageTasks(run=run, time=time.time(), stage=stage, count=count, done=done))
