"""Sessions for the tests: the same bodies run on classic Spark, Spark Connect and a cluster of two executors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# On a busy machine slow examples say nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

KINDS = ("classic", "connect", "cluster")
CONF = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.default.parallelism": "4",
    "spark.driver.memory": "2g",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spark", choices=KINDS, default="classic", help="which kind of session tests/spark uses")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kind = config.getoption("--spark")
    left_out = {"classic": (), "connect": ("classic", "local"), "cluster": ("local", "one_host")}[kind]
    dropped = [i for i in items if any(i.get_closest_marker(m) for m in left_out)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [i for i in items if i not in dropped]


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """classic, connect or cluster."""
    return str(request.config.getoption("--spark"))


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bundles and runs of the tests go to folders of their own, which executors inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARKGAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPARKGAP_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(scope="session")
def spark(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The session of this run."""
    from sparkgap import session

    conf = {**CONF, "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse"))}
    if kind == "connect":
        made = _connect(conf)
    else:
        made = session({"classic": "local[2]", "cluster": "local-cluster[2,1,1024]"}[kind], conf=conf)
    yield made
    made.stop()


def _connect(conf: dict[str, str]) -> SparkSession:
    """Start a Spark Connect server with this process as its client; pyspark stops it with the session."""
    import pyspark
    from pyspark.sql import SparkSession

    from sparkgap._java import find_java
    from sparkgap._launch import newest_java

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the server's workers run this interpreter
    os.environ.setdefault("JAVA_HOME", str(find_java(newest=newest_java(pyspark.__version__)).home))
    builder = SparkSession.builder.remote("local[2]")
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()
