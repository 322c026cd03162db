from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("keras") is None:  # not importorskip: it would choose the backend for all tests of this process
    pytest.skip("Keras is not installed", allow_module_level=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_all_that_holds_on_a_backend(backend: str, tmp_path: Path) -> None:
    """A process has one backend: the cases run in a process of their own."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }  # fmt: skip
    cases = Path(__file__).with_name("keras_cases.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(cases),
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "cases"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
