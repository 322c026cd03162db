"""Starting Spark: Java, the driver JVM's environment, or a connection to a Connect server."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparkgap import _machine
from sparkgap._errors import ConfigurationError, MissingDependencyError, SessionError
from sparkgap._java import Java, find_java
from sparkgap._settings import LOOPBACK, choose_settings, kind_of, launcher_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DEFAULT_MASTER = "local[*]"
_CONNECT_SECONDS = 20.0
_ENVIRONMENT = ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_LOCAL_IP")


def start(wanted: str | None, name: str, asked: Mapping[str, str]) -> SparkSession:
    """Start a session where none is active.

    Args:
        wanted: Spark master or Connect URL; None for the one that the user configured, else ``local[*]``.
        name: the application's name, where the user configured none.
        asked: the user's settings in this call; they win over what is configured elsewhere.
    """
    given = _configured() | dict(asked)
    master = wanted or os.environ.get("SPARK_REMOTE") or given.get("spark.master") or _DEFAULT_MASTER
    for key in ("spark.master", "spark.remote"):
        given.pop(key, None)
    given.setdefault("spark.app.name", name)
    if kind_of(master) == "connect":
        if "spark.driver.memory" in asked:
            raise ConfigurationError(f"The server at {master} has its memory already. Leave memory out.")
        return _connect(master, {key: value for key, value in given.items() if key.startswith("spark.")})
    settings = choose_settings(_machine.detect(), master, given)
    conf = {s.name: s.value for s in settings if not s.in_environment}
    environment: dict[str, str | None] = {s.name: s.value for s in settings if s.in_environment}
    environment["SPARK_REMOTE"] = None  # it would win over the master
    java: Java | None = None
    if _jvm_is_up():
        _keep_to_jvm(master, conf, asked)
    elif "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit started the JVM, and us
        java = find_java(newest=newest_java(importlib.metadata.version("pyspark")))
        environment["JAVA_HOME"] = str(java.home)
    with changed_environment(environment):
        return _build(master, conf, java)


def newest_java(pyspark: str) -> int | None:
    """The newest Java that a PySpark version works with; None without a limit.

    The Hadoop client of PySpark 4.0 calls ``Subject.getSubject``, which Java 24 took away; on Java 25 the Arrow
    of PySpark 4.1 may not reach memory as it is used to, and every job with a Python function fails.
    """
    return 23 if pyspark.split(".")[:2] in (["4", "0"], ["4", "1"]) else None


@contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set (or, with None, unset) variables of this process, and put everything back at the end."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _apply(changes)
        yield
    finally:
        _apply(before)


def _apply(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _configured() -> dict[str, str]:
    """What the user has set outside this call: environment, spark-defaults.conf, submit arguments."""
    found = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return found | launcher_conf(os.environ, _spark_home())
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # connects to the JVM of spark-submit, which knows its arguments
    return found | dict(SparkConf().getAll())


def _spark_home() -> Path:
    if chosen := os.environ.get("SPARK_HOME"):
        return Path(chosen)
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("Package `pyspark` is not installed. Install it: pip install sparkgap.")
    return Path(spec.origin).parent


def _jvm_is_up() -> bool:
    from pyspark import SparkContext

    return SparkContext._gateway is not None and "PYSPARK_GATEWAY_PORT" not in os.environ


def _keep_to_jvm(master: str, conf: dict[str, str], asked: Mapping[str, str]) -> None:
    """Fit a second session to the JVM that an earlier one of this process has left running.

    Raises:
        ConfigurationError: what was asked for would need a new JVM.
    """
    from pyspark import SparkConf

    left = SparkConf()  # the settings that the JVM was launched with
    memory, wanted = left.get("spark.driver.memory", "1g"), asked.get("spark.driver.memory")
    if wanted is not None and wanted != memory:
        raise ConfigurationError(
            f"Asked for a driver memory of {wanted}, and the JVM that this Python process started earlier has {memory}: "
            "it keeps that until the process ends. Start a new Python process."
        )
    conf.pop("spark.driver.memory", None)
    if kind_of(master) == "cluster" and "spark.driver.host" not in conf and left.get("spark.driver.host") == LOOPBACK:
        raise ConfigurationError(
            f"This Python process ran a local session before, and its JVM tells executors to call back at {LOOPBACK}: "
            f"those of {master!r} could not. Start a new Python process, or set spark.driver.host in conf."
        )


def _build(master: str, conf: Mapping[str, str], java: Java | None) -> SparkSession:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    if conf.get("spark.api.mode", "classic") != "connect":
        # Left by an earlier Connect session of this process; PySpark's functions would still go by it.
        os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)
    builder = SparkSession.builder.master(master)
    for name, value in conf.items():
        builder = builder.config(name, value)
    try:
        with warnings.catch_warnings():
            # A local Connect server takes them at its start; PySpark then tries them once more on the client.
            warnings.filterwarnings("ignore", message="Failed to set spark", category=UserWarning)
            return builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        used = f"Java {java.version} from {java.origin} ({java.home})" if java else "the Java that was found"
        raise SessionError(
            f"Spark's JVM ended before it was ready, started with {used} and spark.driver.memory="
            f"{conf.get('spark.driver.memory', '1g')}. Its own message is on stderr, above. Usual causes: less free "
            'memory than that (pass memory="1g"), or a wrong option in spark.driver.extraJavaOptions.'
        ) from error


def _connect(url: str, given: Mapping[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    try:
        from pyspark.sql.connect.client import DefaultChannelBuilder
    except ImportError as error:
        raise MissingDependencyError(
            f"Spark Connect ({url}) needs packages that are absent ({error}). Install them: pip install 'pyspark[connect]'."
        ) from error
    _knock(DefaultChannelBuilder(url).endpoint, url)
    settings = choose_settings(_machine.detect(), url, given)
    builder = SparkSession.builder.remote(url)
    for setting in settings:
        builder = builder.config(setting.name, setting.value)
    return builder.getOrCreate()


def _knock(endpoint: str, url: str) -> None:
    """See that something listens: Spark's client would try again for many minutes before it says so."""
    if any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return  # gRPC goes through the proxy, a plain socket would not
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SessionError(
            f"No Spark Connect server answers at {url} ({endpoint}: {error.strerror or error}). Check host and port, "
            "and that the server runs (sbin/start-connect-server.sh; its port is 15002 unless set otherwise)."
        ) from error
