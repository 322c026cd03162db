"""Leases as Spark jobs. Driver side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import RunError
from sparkgap.scheduled.data import put
from sparkgap.scheduled.frames import Frame
from sparkgap.scheduled.lease_task import FAILED, PIECE_BYTES, SCHEMA, VANISHED, LeasePlan, frames_of, run_lease
from sparkgap.scheduled.placed import PlacedRef

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import DataFrame, SparkSession

MOST_IN_ROWS = 64 << 20
"""Items of so many bytes travel as rows of the job, which are one message from Spark's driver to an executor (128 MB at
most); larger ones as a file."""
MOST_IN_PLAN = 1 << 20
"""A function of so many bytes travels with each job; a larger one as a file, once to each executor."""


@dataclass(frozen=True)
class LeaseJobs:
    """Runs leases, each as a job of one task. Any thread.

    Args:
        spark: the session.
        plan: what they have in common.
        profile: what a task needs of an executor; None for Spark's defaults.
        far: whether executors certainly do not see this machine's files.
    """

    spark: SparkSession
    plan: LeasePlan
    profile: ResourceProfile | None
    far: bool

    def run(self, tag: str, lease: int, items: list[int], payload: bytes) -> list[Frame]:
        """See `lease_desk.Jobs`.

        Raises:
            RunError: the task has vanished, or could not begin.
        """
        _spark.tag_jobs(self.spark, tag)
        large = _file(self, payload) if len(payload) > MOST_IN_ROWS else None
        plan = replace(self.plan, lease=lease, items=tuple(items), payload=large)
        given = self._rows(payload if large is None else b"")
        frames = frames_of(given.mapInArrow(partial(run_lease, plan), SCHEMA, profile=self.profile).toArrow())
        for frame in frames:
            if frame.kind in (VANISHED, FAILED):
                raise RunError(f"The Spark task of {len(items)} items has failed: {frame.header['message']}")
        return frames

    def cancel(self, tag: str) -> None:
        """See `lease_desk.Jobs`."""
        _spark.cancel_jobs(self.spark, tag)

    def _rows(self, payload: bytes) -> DataFrame:
        pieces = [payload[start : start + PIECE_BYTES] for start in range(0, max(1, len(payload)), PIECE_BYTES)]
        table = pa.table({"place": pa.array(range(len(pieces)), pa.int32()), "piece": pa.array(pieces, pa.binary())})
        return self.spark.createDataFrame(table).coalesce(1)


def lease_jobs(spark: SparkSession, plan: LeasePlan, profile: ResourceProfile | None, *, far: bool) -> LeaseJobs:
    """Return what runs the leases of a run; a large function is placed where executors find it."""
    made = LeaseJobs(spark, plan, profile, far)
    if len(plan.program.function) <= MOST_IN_PLAN:
        return made
    function = _file(made, plan.program.function)
    return replace(made, plan=replace(plan, program=replace(plan.program, function=b""), function=function))


def _file(jobs: LeaseJobs, data: bytes) -> PlacedRef:
    return put(jobs.spark, np.frombuffer(data, np.uint8), far=jobs.far)
