"""How a run reaches the cluster: slots that connect to this process, or a Spark job a lease where they cannot. Driver side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, SessionError
from sparkgap.monitor.driver import certificate
from sparkgap.monitor.wire import Address
from sparkgap.scheduled.desk import Desk
from sparkgap.scheduled.jobs import SlotJobs
from sparkgap.scheduled.lease_desk import LeaseDesk
from sparkgap.scheduled.lease_jobs import lease_jobs
from sparkgap.scheduled.lease_task import LeasePlan
from sparkgap.scheduled.placed import PlacedRef
from sparkgap.scheduled.program import Program
from sparkgap.scheduled.resources import Placement
from sparkgap.scheduled.runner import Way
from sparkgap.scheduled.schedule import JOBS
from sparkgap.scheduled.slot import SlotPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHANNEL = "spark.sparkgap.tasks.channel"
_CHANNELS = ("auto", "tcp", "jobs")


def host_of(spark: SparkSession, *, questions: bool) -> str | None:
    """Return where slots are to connect to; None: each lease is to be a Spark job.

    Args:
        spark: the session.
        questions: whether tasks ask this process while they run, which only a connection can carry.

    Raises:
        ConfigurationError: the setting makes no sense.
        SessionError: there is no connection, and it is needed.
    """
    wanted = wanted_channel(spark)
    host = None if wanted == "jobs" else _spark.driver_host(spark)
    if host is None and questions:
        why = f"{CHANNEL} is 'jobs'" if wanted == "jobs" else "executors cannot reach this client of a Spark Connect server"
        raise SessionError(
            f"The tasks of this run ask this process while they run (gap.search, gap.train), and {why}, so "
            "nobody can answer them. Run it on a machine of the cluster, or in a job of its own there."
        )
    if host is None and wanted == "tcp":
        raise SessionError(
            f"{CHANNEL} is 'tcp', and the executors of this Spark Connect server cannot reach this client. Set it to 'auto': "
            "then tasks are Spark jobs, which need no connection."
        )
    return host


def wanted_channel(spark: SparkSession) -> str:
    """Return ``"auto"``, ``"tcp"`` or ``"jobs"``.

    Raises:
        ConfigurationError: the setting is none of these.
    """
    wanted = _spark.conf(spark, CHANNEL, "auto").lower()
    if wanted not in _CHANNELS:
        raise ConfigurationError(f"{CHANNEL}={wanted!r}: one of {', '.join(_CHANNELS)}.")
    return wanted


def over_tcp(
    spark: SparkSession, run: str, program: Program, data: tuple[PlacedRef, ...], place: Placement, channel: Address | None,
    *, host: str,
) -> Way:  # fmt: skip
    """Return the way of slots that stay, and connect to this process at `host`.

    Args:
        spark: the session.
        run: id of the run.
        program: what to run.
        data: placed values.
        place: where slots can be.
        channel: where the monitor's events go.
        host: of this process.
    """
    desk = Desk(_spark.bind_address(spark, host), certificate(spark))
    plan = SlotPlan(run, host, desk.port, desk.token, program, channel, place.cpus, data, desk.certificate)
    jobs = SlotJobs(spark, plan, place.profile, desk.post)
    return Way(desk, jobs.open, jobs.stop)


def over_jobs(
    spark: SparkSession, run: str, program: Program, data: tuple[PlacedRef, ...], place: Placement, channel: Address | None,
    *, far: bool,
) -> Way:  # fmt: skip
    """Return the way of leases that are Spark jobs; see `over_tcp`.

    Args:
        spark: the session.
        run: id of the run.
        program: what to run.
        data: placed values.
        place: where tasks can be.
        channel: where the monitor's events go.
        far: whether executors certainly do not see this machine's files.
    """
    limit = min(program.result_limit, _spark.most_result_bytes(spark) // 2)
    plan = LeasePlan(run, replace(program, result_limit=limit), channel, place.cpus, data)
    desk = LeaseDesk(lease_jobs(spark, plan, place.profile, far=far))
    return Way(desk, desk.open, desk.stop, JOBS)
