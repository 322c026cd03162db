"""The Spark jobs of a run: one a slot, so that one that dies takes no other with it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap.scheduled.runner import SlotEnded
from sparkgap.scheduled.slot import SCHEMA, SlotPlan, run_slot

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import SparkSession

_log = logging.getLogger("sparkgap.scheduled")


@dataclass
class SlotJobs:
    """Starts the jobs in which slots live.

    Args:
        spark: the session.
        plan: what slots need to know.
        profile: what a slot needs of an executor; None for Spark's defaults.
        post: takes `SlotEnded`, from any thread.
    """

    spark: SparkSession
    plan: SlotPlan
    profile: ResourceProfile | None
    post: Callable[[Any], None]

    def __post_init__(self) -> None:
        """Choose a tag that no other run has."""
        self._tag = f"sparkgap-{uuid.uuid4().hex}"
        self._open = 0
        self._lock = threading.Lock()

    def open(self, number: int) -> None:
        """Start the job of a place; returns at once."""
        with self._lock:
            self._open += 1
        threading.Thread(target=self._work, args=(number,), name=f"sparkgap-slot-{number}", daemon=True).start()

    def stop(self) -> None:
        """End the jobs that still run."""
        if not self._open:
            return
        try:
            _spark.cancel_jobs(self.spark, self._tag)
        except Exception as error:  # the session has ended, or its connection: then so have the jobs
            _log.debug("The slots could not be interrupted: %s", error)

    def _work(self, number: int) -> None:
        try:
            _spark.tag_jobs(self.spark, self._tag)
            one = self.spark.range(number, number + 1, 1, 1)
            (row,) = one.mapInArrow(partial(run_slot, self.plan), SCHEMA, profile=self.profile).collect()
            ended = SlotEnded(number, row.status, row.message)
        except Exception as error:  # whatever Spark or its client raise, it is told as it is
            ended = SlotEnded(number, "failed", f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._open -= 1
        self.post(ended)
