"""Which Spark settings suit deep learning on this machine, and why: a pure choice, no Spark in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkgap._errors import ConfigurationError
from sparkgap._machine import Machine

GIB = 1024**3
LOOPBACK = "127.0.0.1"
_BY_USER = "set by you"
_SUBMIT_FLAGS = {
    "--master": "spark.master", "--remote": "spark.remote", "--name": "spark.app.name",
    "--driver-memory": "spark.driver.memory", "--executor-memory": "spark.executor.memory",
    "--driver-java-options": "spark.driver.extraJavaOptions", "--executor-cores": "spark.executor.cores",
    "--num-executors": "spark.executor.instances", "--packages": "spark.jars.packages", "--jars": "spark.jars",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One setting of a session.

    Attributes:
        name: a Spark setting (``spark.…``), or a variable of the driver JVM's environment.
        value: as text, the way Spark reads it.
        reason: why it has this value, in one sentence.
    """

    name: str
    value: str
    reason: str

    @property
    def in_environment(self) -> bool:
        """Whether it travels in the environment of the driver JVM instead of Spark's configuration."""
        return not self.name.startswith("spark.")


def kind_of(master: str) -> str:
    """Return ``"local"``, ``"local-cluster"``, ``"connect"`` or ``"cluster"``."""
    if master.startswith("sc://"):
        return "connect"
    if master.startswith("local-cluster"):
        return "local-cluster"
    return "local" if re.fullmatch(r"local(\[[^]]*\])?", master) else "cluster"


def choose_settings(machine: Machine, master: str, user_conf: Mapping[str, str]) -> list[Setting]:
    """Choose the settings of a new session; what the user set is kept as it is.

    Args:
        machine: what the driver's machine offers.
        master: Spark master or Connect URL.
        user_conf: Spark settings and environment variables that the user chose.

    Returns:
        One entry a name: ours first, in a fixed order, then the other settings of the user by name.
    """
    ours = [
        Setting(s.name, user_conf[s.name], f"{_BY_USER} (gap.session would take {s.value}: {s.reason})")
        if s.name in user_conf
        else s
        for s in _chosen(machine, master)
    ]
    names = {s.name for s in ours}
    return ours + [Setting(name, user_conf[name], _BY_USER) for name in sorted(user_conf) if name not in names]


def slots_of(master: str, cores: int) -> int:
    """Tasks that run at once under a local master: 2 for ``local[2]``, n * c for ``local-cluster[n,c,m]``."""
    if cluster := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]", master):
        return int(cluster[1]) * int(cluster[2])
    local = re.fullmatch(r"local(?:\[\s*(\d+|\*)\s*(?:,\s*\d+\s*)?\])?", master)
    if local is None:
        raise ConfigurationError(
            f"{master!r} is not a Spark master. Write local[4], local[*], local-cluster[2,1,1024], spark://host:7077, "
            "yarn, k8s://… or a Spark Connect URL (sc://host)."
        )
    return cores if local[1] == "*" else int(local[1] or 1)


def driver_memory(physical: int | None) -> int | None:
    """Bytes for the driver JVM of a local session: a quarter of the machine, from 1 to 8 GiB."""
    return None if physical is None else min(max(physical // 4, GIB), 8 * GIB)


def as_size(memory: str | int) -> str:
    """Return a memory size as the JVM reads it; plain numbers are bytes.

    Raises:
        ConfigurationError: it is not a positive size.
    """
    text = f"{memory // 1024}k" if isinstance(memory, int) else memory.strip().lower()
    if not re.fullmatch(r"0*[1-9][0-9]*[kmgt]b?", text):
        raise ConfigurationError(f'memory={memory!r} is not a size. Write "4g", "512m" or a number of bytes.')
    return text.removesuffix("b")


def launcher_conf(environ: Mapping[str, str], spark_home: Path) -> dict[str, str]:
    """What the user has set for Spark's launcher: spark-defaults.conf, then PYSPARK_SUBMIT_ARGS over it."""
    folder = Path(environ.get("SPARK_CONF_DIR") or spark_home / "conf")
    defaults = folder / "spark-defaults.conf"
    found = dict(_properties(defaults.read_text())) if defaults.is_file() else {}
    return found | dict(_submit_args(environ.get("PYSPARK_SUBMIT_ARGS", "")))


def _properties(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(spark\.[^\s=:]+)(?:\s*[=:]\s*|\s+)(.*?)\s*", line)
        if match:
            yield match[1], match[2]


def _submit_args(text: str) -> Iterator[tuple[str, str]]:
    words = iter(shlex.split(text))
    for word in words:
        flag, joined, value = word.partition("=")
        if flag not in _SUBMIT_FLAGS and flag not in ("--conf", "-c"):
            continue
        value = value if joined else next(words, "")
        if flag in _SUBMIT_FLAGS:
            yield _SUBMIT_FLAGS[flag], value
        elif "=" in value:
            name, _, setting = value.partition("=")
            yield name, setting


def _chosen(machine: Machine, master: str) -> Iterator[Setting]:
    kind = kind_of(master)
    if kind in ("local", "local-cluster"):
        yield from _embedded(machine, master, kind)
    if kind != "connect":  # a Connect server has these, or not, before we come
        yield Setting("spark.python.worker.reuse", "true", "the model stays loaded in the worker from one task to the next")
        yield Setting(
            "spark.python.worker.faulthandler.enabled",
            "true",
            "a crash in native code of a framework leaves its Python stack in the error",
        )
        yield Setting("spark.ui.showConsoleProgress", "false", "sparkgap draws its own line; two would overwrite each other")
    yield Setting(
        "spark.sql.execution.arrow.pyspark.enabled", "true", "DataFrames reach pandas as Arrow columns, not row by row"
    )
    yield Setting(
        "spark.sql.execution.arrow.maxRecordsPerBatch",
        "10000",
        "measured: fewer rows a block cost time on scalar columns, more gain little and delay the first block",
    )
    yield Setting(
        "spark.sql.execution.arrow.maxBytesPerBatch",
        str(64 * 1024**2),
        "64 MiB bound what wide rows (images) hold in memory; batches for the model are cut later, by batch_size",
    )


def _embedded(machine: Machine, master: str, kind: str) -> Iterator[Setting]:
    slots = slots_of(master, machine.cores)
    memory = driver_memory(machine.memory)
    if kind == "local" and memory is not None and machine.memory is not None:
        yield Setting(
            "spark.driver.memory",
            f"{memory // 1024**2}m",
            f"a quarter of {machine.memory / GIB:.1f} GiB, from 1 to 8 GiB: this JVM runs the tasks, and models need "
            "the rest beside it",
        )
    yield Setting("spark.sql.shuffle.partitions", str(slots), "as many as tasks run at once here; Spark's default is 200")
    yield Setting("spark.driver.host", LOOPBACK, "everything runs on this machine; nothing needs the network")
    yield Setting("spark.driver.bindAddress", LOOPBACK, "no port is open to other machines")
    yield Setting("SPARK_LOCAL_IP", LOOPBACK, "no port is open to other machines, the Spark UI's included")
    yield Setting(
        "spark.python.unix.domain.socket.enabled",
        "true",
        "measured: 15 % less time for rows through Python than over loopback TCP (Spark 4.1 and newer)",
    )
    yield Setting("spark.ui.enabled", "false", "starts faster and opens no port; set it to true to have Spark's own page")
    why = "workers need the packages of the interpreter that runs this program"
    yield Setting("PYSPARK_PYTHON", machine.python, why)
    yield Setting("PYSPARK_DRIVER_PYTHON", machine.python, why)
