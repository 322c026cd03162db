"""The pure side of `gap.session`: settings and their reasons, what the user configured, the environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparkgap as gap
from sparkgap import ConfigurationError, SessionError, _machine
from sparkgap._launch import _knock, changed_environment, newest_java
from sparkgap._machine import Machine, memory_limit, quota_cores
from sparkgap._settings import GIB, as_size, choose_settings, driver_memory, kind_of, launcher_conf, slots_of

HERE = Machine(cores=6, memory=24 * GIB, python="/venv/bin/python")
MASTERS = ["local", "local[2]", "local[*]", "local[4,2]", "local-cluster[2,3,1024]", "spark://h:7077", "yarn", "sc://h"]
KEYS = st.sampled_from(
    ["spark.driver.memory", "spark.ui.enabled", "spark.driver.host", "PYSPARK_PYTHON", "spark.sql.shuffle.partitions",
     "spark.sql.execution.arrow.maxRecordsPerBatch", "spark.executor.memory", "spark.any.thing"]
)  # fmt: skip


def values(master: str, machine: Machine = HERE, **conf: str) -> dict[str, str]:
    return {s.name: s.value for s in choose_settings(machine, master, conf)}


@given(
    machine=st.builds(Machine, cores=st.integers(1, 512), memory=st.none() | st.integers(0, 2**45), python=st.just("/p")),
    master=st.sampled_from(MASTERS),
    conf=st.dictionaries(KEYS, st.text(min_size=1, max_size=5)),
)
def test_the_user_wins_and_every_setting_has_one_entry_with_a_reason(
    machine: Machine, master: str, conf: dict[str, str]
) -> None:
    chosen = choose_settings(machine, master, conf)
    names = [s.name for s in chosen]
    assert len(set(names)) == len(names)
    assert {s.name: s.value for s in chosen if s.name in conf} == conf
    assert all(s.reason.startswith("set by you") == (s.name in conf) for s in chosen)
    untouched = {s.name: s for s in choose_settings(machine, master, {})}
    assert all(untouched[s.name] == s for s in chosen if s.name not in conf)


@given(st.integers(0, 2**45))
def test_driver_memory_is_a_quarter_within_bounds(physical: int) -> None:
    memory = driver_memory(physical)
    assert memory is not None
    assert GIB <= memory <= 8 * GIB
    assert memory == physical // 4 or memory in (GIB, 8 * GIB)


def test_embedded_settings() -> None:
    got = values("local[*]")
    assert got["spark.driver.memory"] == "6144m"
    assert got["spark.sql.shuffle.partitions"] == "6"
    assert got["spark.driver.host"] == got["spark.driver.bindAddress"] == got["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert got["spark.ui.enabled"] == "false"
    assert got["PYSPARK_PYTHON"] == got["PYSPARK_DRIVER_PYTHON"] == "/venv/bin/python"
    assert "spark.driver.memory" not in values("local[*]", Machine(6, None, "/p"))


def test_local_cluster_has_memory_of_its_own() -> None:
    got = values("local-cluster[2,3,1024]")
    assert "spark.driver.memory" not in got
    assert got["spark.sql.shuffle.partitions"] == "6"


@pytest.mark.parametrize("master", ["spark://h:7077", "yarn", "k8s://https://h"])
def test_a_cluster_keeps_its_own_network_memory_and_python(master: str) -> None:
    got = values(master)
    assert not {"spark.driver.memory", "spark.driver.host", "spark.ui.enabled", "PYSPARK_PYTHON"} & set(got)
    assert got["spark.python.worker.reuse"] == got["spark.python.worker.faulthandler.enabled"] == "true"


def test_connect_gets_only_what_a_client_may_set() -> None:
    assert set(values("sc://h")) == {
        "spark.sql.execution.arrow.pyspark.enabled",
        "spark.sql.execution.arrow.maxRecordsPerBatch",
        "spark.sql.execution.arrow.maxBytesPerBatch",
    }


@pytest.mark.parametrize(
    ("master", "kind"),
    [("local", "local"), ("local[2]", "local"), ("local[*,3]", "local"), ("local-cluster[1,1,1024]", "local-cluster"),
     ("spark://h:1", "cluster"), ("yarn", "cluster"), ("k8s://h", "cluster"), ("sc://h:1/;token=x", "connect")],
)  # fmt: skip
def test_kind_of(master: str, kind: str) -> None:
    assert kind_of(master) == kind


@pytest.mark.parametrize(
    ("master", "slots"),
    [("local", 1), ("local[3]", 3), ("local[*]", 6), ("local[ 3 , 2 ]", 3), ("local-cluster[2, 3, 1024]", 6)],
)
def test_slots_of(master: str, slots: int) -> None:
    assert slots_of(master, 6) == slots


@pytest.mark.parametrize("master", ["local[x]", "local-cluster[2,1]"])
def test_a_local_master_that_is_none(master: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a Spark master\. Write local\[4\]"):
        choose_settings(HERE, master, {})


@pytest.mark.parametrize(("given_as", "size"), [("4g", "4g"), (" 512MB ", "512m"), (2 * GIB, "2097152k"), ("1tb", "1t")])
def test_as_size(given_as: str | int, size: str) -> None:
    assert as_size(given_as) == size


@pytest.mark.parametrize("given_as", ["lots", "4", "0g", "-1g", 0, -5, "1.5g"])
def test_sizes_that_are_none(given_as: str | int) -> None:
    with pytest.raises(ConfigurationError, match=r'is not a size\. Write "4g"'):
        gap.session(memory=given_as)


def test_launcher_conf(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "spark-defaults.conf").write_text(
        "# spark.no 1\n\nspark.master   spark://h:7077\nspark.driver.memory=3g\n  spark.a.b :  x y \nother.key 1\n"
    )
    found = {"spark.master": "spark://h:7077", "spark.driver.memory": "3g", "spark.a.b": "x y"}
    assert launcher_conf({}, tmp_path) == found
    submit = "--driver-memory 5g --conf spark.c='d e' -c spark.f=g=h --conf=spark.i=j --verbose pyspark-shell"
    assert launcher_conf({"PYSPARK_SUBMIT_ARGS": submit}, tmp_path) == found | {
        "spark.driver.memory": "5g", "spark.c": "d e", "spark.f": "g=h", "spark.i": "j",
    }  # fmt: skip
    assert launcher_conf({"SPARK_CONF_DIR": str(tmp_path)}, tmp_path) == {}


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1), ("", None), (None, None)]
)
def test_quota_cores(cpu_max: str | None, cores: int | None) -> None:
    assert quota_cores(cpu_max) == cores


@pytest.mark.parametrize(("memory_max", "limit"), [("max\n", None), ("1073741824\n", GIB), (None, None)])
def test_memory_limit(memory_max: str | None, limit: int | None) -> None:
    assert memory_limit(memory_max) == limit


def test_detect_respects_a_container(tmp_path: Path) -> None:
    free = _machine.detect(tmp_path)  # no files: no limits
    assert free.cores == len(os.sched_getaffinity(0))
    assert free.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    limited = _machine.detect(tmp_path)
    assert (limited.cores, limited.memory) == (1, 1048576)


def test_environment_is_put_back_after_an_error() -> None:
    before = dict(os.environ)

    def fail() -> None:
        with changed_environment({"SPARKGAP_TEST_A": "1", "PATH": None}):
            assert os.environ["SPARKGAP_TEST_A"] == "1"
            assert "PATH" not in os.environ
            raise RuntimeError("from inside")

    with pytest.raises(RuntimeError, match="from inside"):
        fail()
    assert dict(os.environ) == before


@pytest.mark.parametrize(("pyspark", "newest"), [("4.0.5", 23), ("4.1.4", 23), ("4.2.1", None), ("4.10.0", None)])
def test_newest_java(pyspark: str, newest: int | None) -> None:
    assert newest_java(pyspark) == newest


@pytest.mark.parametrize(
    ("master", "conf", "message"),
    [
        (
            "local[2]",
            {"spark.master": "local[3]"},
            r"Asked for master='local\[2\]' and, in conf, for spark\.master='local\[3\]'",
        ),
        ("local[2]", {"spark.remote": "sc://h"}, r"Asked for 'local\[2\]' and, in conf, for spark\.remote='sc://h'"),
    ],
)
def test_contradictions(master: str, conf: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gap.session(master, conf=conf)


def test_memory_twice() -> None:
    with pytest.raises(ConfigurationError, match=r"Asked for memory='2g' and, in conf, for spark\.driver\.memory='4g'"):
        gap.session(memory="2g", conf={"spark.driver.memory": "4g"})


def test_a_server_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _knock(f"127.0.0.1:{port}", "sc://x")  # listens
    with pytest.raises(
        SessionError, match=rf"No Spark Connect server answers at sc://x \(127\.0\.0\.1:{port}: Connection refused\)"
    ):
        _knock(f"127.0.0.1:{port}", "sc://x")
