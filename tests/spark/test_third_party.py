"""An adapter that comes in a package of its own: installed, found, conformant, and used on executors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "add_a_framework"

USE = """
import json, sys
import sparkgap as gap
spark = gap.session("local[2]", conf={"spark.ui.enabled": "false"})
frame = spark.range(4).selectExpr("id", "double(id) AS x")
rows = gap.transform(frame, sys.argv[1]).orderBy("id").collect()
print(json.dumps([r.y for r in rows]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example, installed into a folder of its own by pip; the environment of a process that sees it."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "polynomial"
    source.mkdir()
    for name in ("pyproject.toml", "sparkgap_polynomial.py"):
        (source / name).write_text((EXAMPLE / name).read_text())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder), str(source)], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.local
def test_it_passes_the_conformance_tests(installed):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE), str(EXAMPLE)],
        env=installed, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.local
def test_it_is_found_and_runs_on_executors(installed, tmp_path):
    path = tmp_path / "parabola.poly.json"
    path.write_text(json.dumps({"coefficients": [1, 0, 2]}))
    done = subprocess.run([sys.executable, "-c", USE, str(path)], env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [1.0, 3.0, 9.0, 19.0]
