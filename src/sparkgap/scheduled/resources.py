"""What a task needs of the cluster, and how many can run at the same time. Driver side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap._machine import detect
from sparkgap._settings import slots_of

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import SparkSession

MOST_SLOTS = 1024
"""Slots that are asked for where a cluster grows with what is asked of it, and has no limit of its own."""


@dataclass(frozen=True)
class Placement:
    """Where the tasks of a run can be.

    Attributes:
        cpus: cores of a task.
        parallel: tasks at the same time, at most.
        profile: what Spark is to reserve for each; None: its own defaults do.
    """

    cpus: int
    parallel: int
    profile: ResourceProfile | None


def placement(spark: SparkSession, *, cpus: int | None, gpus: float | None, parallel: int | None) -> Placement:
    """Decide that.

    Args:
        spark: the session.
        cpus: cores a task; None: as many as Spark gives each task anyway.
        gpus: GPUs a task, fractions too; None for none.
        parallel: tasks at the same time; None: as many as the cluster runs.

    Raises:
        ConfigurationError: a number makes no sense, or the cluster cannot give it.
    """
    usual = int(_spark.conf(spark, "spark.task.cpus", "1"))
    wanted = usual if cpus is None else cpus
    if wanted < 1 or wanted != int(wanted):
        raise ConfigurationError(f"cpus={cpus!r}: a task has a whole number of cores, from 1.")
    if gpus is not None and not (0 < gpus <= 0.5 or (gpus >= 1 and gpus == int(gpus))):
        raise ConfigurationError(f"gpus={gpus!r}: a share of one GPU up to 0.5, or a whole number.")
    if parallel is not None and parallel < 1:
        raise ConfigurationError(f"parallel={parallel!r}: at least one task must run.")
    if _is_local(spark):
        if gpus is not None:
            raise ConfigurationError(
                "gpus=: a local master has no GPUs to share out; Spark reserves them on a cluster whose executors offer "
                "them (spark.executor.resource.gpu.amount)."
            )
        cores = slots_of(_spark.conf(spark, "spark.master", "local"), detect().cores)  # not what users call parallelism
        room = max(1, cores // wanted)
        if wanted > cores:
            raise ConfigurationError(f"cpus={cpus}: this local master has {cores} cores. Ask for less, or start more.")
        return Placement(wanted, min(room, parallel or room), None)
    most = parallel or max(1, _slots(spark) * usual // wanted)
    profile = None if wanted == usual and gpus is None else _profile(wanted, gpus)
    return Placement(wanted, most, profile)


def _is_local(spark: SparkSession) -> bool:
    master = _spark.conf(spark, "spark.master", "")
    return master.startswith("local") and not master.startswith("local-cluster")


def _slots(spark: SparkSession) -> int:
    """Return slots of the cluster, as it is or as it may grow."""
    if _spark.conf(spark, "spark.dynamicAllocation.enabled", "false") != "true":
        return _spark.slots(spark)
    most = int(_spark.conf(spark, "spark.dynamicAllocation.maxExecutors", str(MOST_SLOTS)))
    each = int(_spark.conf(spark, "spark.executor.cores", "1")) // int(_spark.conf(spark, "spark.task.cpus", "1"))
    return max(1, min(MOST_SLOTS, most * max(1, each)))


def _profile(cpus: int, gpus: float | None) -> ResourceProfile:
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    needs = TaskResourceRequests().cpus(cpus)
    if gpus is not None:
        needs = needs.resource("gpu", gpus)
    made: ResourceProfile = ResourceProfileBuilder().require(needs).build
    return made
