"""`gap.session`: a SparkSession that suits deep learning, and why each of its settings is what it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkgap import _machine
from sparkgap._errors import ConfigurationError
from sparkgap._launch import start
from sparkgap._settings import Setting, as_size, choose_settings, kind_of
from sparkgap._spark import is_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_launching = threading.Lock()  # the environment is changed for the moment of the launch


def session(
    master: str | None = None,
    *,
    name: str = "sparkgap",
    memory: str | int | None = None,
    conf: Mapping[str, Any] | None = None,
) -> SparkSession:
    """Return the active Spark session, or start one that suits deep learning.

    Settings are chosen from the machine; `explain_session` says which and why. What you set yourself (in `conf`,
    spark-defaults.conf, PYSPARK_SUBMIT_ARGS or by spark-submit) is never changed. Runs on the driver.

    Args:
        master: any Spark master (``"local[2]"``, ``"local-cluster[2,1,1024]"``, ``"spark://host:7077"``, ``"yarn"``,
            ``"k8s://…"``) or a Spark Connect URL (``"sc://host"``). Default: the one that you configured, else
            ``"local[*]"``: Spark inside this Python process's own JVM, on all cores.
        name: the application's name.
        memory: memory of the driver JVM, ``"4g"`` or bytes. In a local session that JVM runs the tasks.
        conf: more Spark settings, ``{"spark.ui.enabled": True}``.

    Returns:
        The session. It is an ordinary SparkSession: `spark.stop()` ends it.

    Raises:
        ConfigurationError: a session is active and cannot be what was asked for, or arguments contradict each other.
        SessionError: there is no usable Java, or Spark did not start or answer.

    Example:
        >>> spark = gap.session("local[2]", memory="2g")  # doctest: +SKIP
    """
    asked = {key: _text(value) for key, value in (conf or {}).items()}
    _merge(asked, "spark.driver.memory", None if memory is None else as_size(memory), "memory")
    target = asked.pop("spark.remote", None)
    _merge(asked, "spark.master", master, "master")
    wanted = asked.pop("spark.master", None) or target
    if target is not None and wanted != target:
        raise ConfigurationError(f"Asked for {wanted!r} and, in conf, for spark.remote={target!r}. Give one of them.")
    running = _running()
    if running is not None:
        return _adopt(running, wanted, asked)
    with _launching:
        return start(wanted, name, asked)


def explain_session(spark: SparkSession) -> list[Setting]:
    """Compare a session with what `gap.session` would choose here; works for sessions of any origin.

    Returns:
        One entry a setting: its value in this session ("" where it is not set), and the reason.
    """
    master = spark.conf.get("spark.master", None) or "sc://"
    chosen = choose_settings(_machine.detect(), "sc://" if is_connect(spark) else master, {})
    facts = [Setting("spark.master", master, "where the tasks run")]
    if not is_connect(spark):
        system = spark._jvm.java.lang.System
        version = system.getProperty("java.version")
        facts.append(Setting("java.home", system.getProperty("java.home"), f"Java {version} runs Spark"))
    return facts + [row for wish in chosen if (row := _compared(spark, wish))]


def _compared(spark: SparkSession, wish: Setting) -> Setting | None:
    if wish.in_environment:
        if wish.name != "PYSPARK_PYTHON" or is_connect(spark):
            return None  # the JVM's environment cannot be asked
        value: str | None = spark.sparkContext.pythonExec
    else:
        value = spark.conf.get(wish.name, None)
    if value is not None and value.removesuffix("b") == wish.value:  # Spark shows sizes as "67108864b"
        return wish
    if value is None:
        return Setting(wish.name, "", f"not set; gap.session would take {wish.value}: {wish.reason}")
    return Setting(wish.name, value, f"not chosen by sparkgap, which would take {wish.value}: {wish.reason}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _merge(conf: dict[str, str], key: str, value: str | None, argument: str) -> None:
    """Put an argument among the settings; both, and different, is a contradiction."""
    if value is None:
        return
    if conf.setdefault(key, value) != value:
        raise ConfigurationError(f"Asked for {argument}={value!r} and, in conf, for {key}={conf[key]!r}. Give one of them.")


def _running() -> SparkSession | None:
    """The active session of this thread, else the process's, if it is alive."""
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    try:
        found = SparkSession.active()
    except PySparkRuntimeError:  # NO_ACTIVE_OR_DEFAULT_SESSION
        return None
    if is_connect(found):
        return None if found.is_stopped else found
    return None if found.sparkContext._jsc is None else found


def _adopt(spark: SparkSession, wanted: str | None, asked: Mapping[str, str]) -> SparkSession:
    """Use a session that is there, with the settings that can still be changed."""
    here = _place(spark)
    if wanted is not None and wanted not in here and _endpoint(wanted) not in here:
        raise ConfigurationError(
            f"A Spark session is active on {here[0]!r}, and {wanted!r} was asked for. Use the active one by leaving "
            "out the master, or end it first with spark.stop()."
        )
    for key, value in asked.items():
        if spark.conf.get(key, None) == value:
            continue
        if not spark.conf.isModifiable(key):
            raise ConfigurationError(
                f"A Spark session is active with {key}={spark.conf.get(key, None)!r}, and {value!r} was asked for. "
                "This setting cannot change while a session runs: end it first with spark.stop()."
            )
        spark.conf.set(key, value)
    return spark


def _place(spark: SparkSession) -> list[str]:
    """Names under which somebody may ask for this session: its master, its Connect address."""
    master = spark.conf.get("spark.master", None)
    if not is_connect(spark):
        return [str(master)]
    endpoint = spark.client._builder.endpoint
    return [f"sc://{endpoint}", *([master] if master else [])]


def _endpoint(url: str) -> str | None:
    """``sc://host:port`` of a Connect URL with its default port filled in; None for another master."""
    if kind_of(url) != "connect":
        return None
    from pyspark.sql.connect.client import DefaultChannelBuilder

    return f"sc://{DefaultChannelBuilder(url).endpoint}"
