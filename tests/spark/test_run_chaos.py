"""Two thousand items while somebody kills workers, children, an executor and the driver: each has its one right outcome."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ITEMS = 2000
DRIVER = """
import json, sys
from pathlib import Path
import sparkgap as gap

journal, ran, result = map(Path, sys.argv[1:])

def work(n):
    import os, time
    with open(ran, "a") as file:  # a line of so few bytes is written in one piece
        file.write(f"{n} {os.getpid()}\\n")
    time.sleep(0.008)
    return n * n

spark = gap.session("local-cluster[2,1,1024]", conf={"spark.ui.enabled": "false", "spark.driver.memory": "1g"})
run = gap.run(work, range(%d), journal=journal, retries=20, backoff=0.01, on_error="collect")
print("begun", flush=True)
outcomes = list(run)
result.write_text(json.dumps([(o.index, o.kind, o.value, str(o.error)) for o in outcomes]))
run.cancel()
spark.stop()
"""


class Chaos:
    """A driver as a process of its own, everything below it, and what is killed of that."""

    def __init__(self, arguments: list[str], temporary: Path, random_numbers: random.Random) -> None:
        environment = {**os.environ, "TMPDIR": str(temporary), "PYSPARK_PYTHON": sys.executable}
        self._process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
        self.seen: set[psutil.Process] = set()
        self.killed: list[str] = []
        self._random = random_numbers

    def wait_for(self, line: str) -> None:
        assert self._process.stdout is not None
        for said in self._process.stdout:
            if said.strip() == line:
                return
        raise AssertionError(f"the driver never said {line!r}")

    def look(self) -> list[psutil.Process]:
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        self.seen |= set(below)
        return below

    def kill_one(self, what: str) -> bool:
        """Kill a worker of Spark, a child that works, a zygote, or an executor."""
        found = [p for p in self.look() if _kind(p) == what]
        if not found:
            return False
        try:
            self._random.choice(found).kill()
        except psutil.NoSuchProcess:
            return False
        self.killed.append(what)
        return True

    def kill_driver(self) -> None:
        self.look()
        self._process.kill()
        self._process.wait()

    def running(self) -> bool:
        return self._process.poll() is None

    def code(self) -> int:
        return self._process.wait(120)

    def left(self) -> list[psutil.Process]:
        return [p for p in self.seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _kind(process: psutil.Process) -> str:
    try:
        line, parent = process.cmdline(), process.parent()
        above = parent.cmdline() if parent is not None else []
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    if any("CoarseGrainedExecutorBackend" in part for part in line):
        return "executor"
    if any("sparkgap.scheduled.zygote" in part for part in line):
        return "child" if any("sparkgap.scheduled.zygote" in part for part in above) else "zygote"
    if "pyspark.daemon" in line and "pyspark.daemon" in above:
        return "worker"
    return ""


def until(what: Callable[[], object], seconds: float, problem: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, problem()
        time.sleep(0.05)  # between two looks at /proc, which cannot wake anybody


def test_whatever_is_killed_each_item_has_one_outcome(tmp_path: Path, kind: str) -> None:
    if kind != "cluster":
        pytest.skip("the test makes its own cluster; once is enough")
    script, journal, ran, result = (tmp_path / name for name in ("driver.py", "journal", "ran", "result.json"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script.write_text(textwrap.dedent(DRIVER % ITEMS))
    numbers = random.Random(7)
    arguments = [str(script), str(journal), str(ran), str(result)]

    first = Chaos(arguments, temporary, numbers)
    first.wait_for("begun")

    def count() -> int:
        return ran.read_text().count("\n") if ran.exists() else 0

    until(lambda: first.look() and count() > 50, 60, lambda: "nothing began")
    for what in ("child", "worker", "child", "zygote", "child", "worker"):
        before = count()
        until(lambda w=what: first.kill_one(w), 30, lambda w=what: f"no {w} to kill")
        until(lambda b=before: count() > b + 20, 60, lambda: "it did not go on")
    assert first.running()
    first.kill_driver()
    until(lambda: not first.left(), 60, lambda: f"left of the first driver: {first.left()}")
    done = count()
    assert 100 < done < ITEMS

    second = Chaos(arguments, temporary, numbers)
    second.wait_for("begun")
    for what in ("worker", "executor", "child", "child", "worker", "zygote"):
        before = count()
        until(lambda w=what: second.kill_one(w), 30, lambda w=what: f"no {w} to kill")
        until(lambda b=before: count() > b + 20 or not second.running(), 60, lambda: "it did not go on")
    until(lambda: second.look() or not second.running(), 5, lambda: "")
    assert second.code() == 0
    until(lambda: not second.left(), 60, lambda: f"left of the second driver: {second.left()}")

    outcomes = json.loads(result.read_text())
    assert [(index, found, value) for index, found, value, _ in outcomes] == [(n, "ok", n * n) for n in range(ITEMS)]
    tries = count()
    print(f"{tries} tries, killed {first.killed} and {second.killed}")
    # Each kill costs what was at hand or unsent: some 50 ms of work in each slot; the driver's that of both.
    assert ITEMS <= tries <= ITEMS + 20 * (len(first.killed) + len(second.killed) + 2), f"{tries} tries"
    assert not [p.name for p in temporary.rglob("*") if "sparkgap" in p.name]
