"""`gap.run` on clusters that grow, and that have GPUs to share out; each is a cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

START = """
import json, sys
import sparkgap as gap

conf = {"spark.ui.enabled": "false", "spark.driver.memory": "1g", "spark.executor.memory": "512m", **json.loads(sys.argv[1])}
spark = gap.session("local-cluster[2,1,1024]", conf=conf)
"""


def result_of(tmp_path: Path, body: str, conf: dict[str, str]) -> Any:
    """Run a program on a cluster of its own, and return the last line that it prints."""
    script = tmp_path / "program.py"
    script.write_text(START + body + "\nspark.stop()\n")
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    got = subprocess.run(
        [sys.executable, str(script), json.dumps(conf)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=environment,
    )
    assert got.returncode == 0, got.stderr
    return json.loads(got.stdout.splitlines()[-1])


def test_a_cluster_that_grows_from_nothing(kind: str, tmp_path: Path) -> None:
    if kind != "cluster":
        pytest.skip("the test makes its own cluster; once is enough")
    body = """
import os, threading
from pathlib import Path

def work(n):
    folder = Path(where)
    (folder / f"{n}").touch()
    while len(list(folder.iterdir())) < 2:  # two at the same time, or never
        threading.Event().wait(0.05)
    return n * n

where = sys.argv[0] + ".ran"
Path(where).mkdir()
run = gap.run(work, range(40))
print(json.dumps(run.values()))
"""
    conf = {
        "spark.dynamicAllocation.enabled": "true", "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "0", "spark.dynamicAllocation.initialExecutors": "0",
        "spark.dynamicAllocation.maxExecutors": "2", "spark.dynamicAllocation.schedulerBacklogTimeout": "1s",
        "spark.executor.cores": "1",
    }  # fmt: skip
    assert result_of(tmp_path, body, conf) == [n * n for n in range(40)]


def test_gpus_are_shared_out(kind: str, tmp_path: Path) -> None:
    if kind != "cluster":
        pytest.skip("the test makes its own cluster; once is enough")
    found = tmp_path / "gpus.sh"
    found.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0"]}'\n""")
    found.chmod(0o755)
    body = """
def work(n):
    import os
    return [n, os.environ.get("CUDA_VISIBLE_DEVICES")]

print(json.dumps(gap.run(work, range(6), gpus=1).values()))
"""
    conf = {
        "spark.worker.resource.gpu.amount": "1", "spark.worker.resource.gpu.discoveryScript": str(found),
        "spark.executor.resource.gpu.amount": "1", "spark.executor.resource.gpu.discoveryScript": str(found),
        "spark.task.resource.gpu.amount": "0.5",
    }  # fmt: skip
    assert result_of(tmp_path, body, conf) == [[n, "0"] for n in range(6)]
