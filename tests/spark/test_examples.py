"""The examples, run as a user would, and what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.classic, pytest.mark.local]


def printed(name: str, *arguments: str, folder: Path) -> str:
    """What an example prints, run out of a folder of its own."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def found(pattern: str, text: str) -> list[float]:
    """The numbers of the one place that a pattern matches."""
    match = re.search(pattern, text)
    assert match is not None, text
    return [float(number) for number in match.groups()]


def test_a_cnn_is_tuned_on_digits(tmp_path: Path) -> None:
    text = printed("tune_digits.py", "8", folder=tmp_path)
    trials, _, chosen = found(r"(\d+) trials, (\d+) pruned; the best is \d+: ([\d.]+)%", text)
    tested, least, most = found(r"test accuracy: ([\d.]+)% \(([\d.]+)% to ([\d.]+)% over 3 seeds\)", text)
    assert trials == 8
    assert min(chosen, tested) > 80  # of ten classes; eight trials give 90 to 97
    assert least <= tested <= most


def test_a_model_per_series_beats_the_naive_forecast(tmp_path: Path) -> None:
    text = printed("forecast_per_series.py", folder=tmp_path)
    assert found(r"(\d+) models trained", text) == [20]
    better, of = found(r"better than the naive forecast in (\d+) of (\d+) industries", text)
    assert of == 20
    assert better >= 15
    assert found(r"mean absolute error: ([\d.]+) of the naive one", text)[0] < 0.8


def test_a_cnn_is_trained_by_two_workers(tmp_path: Path) -> None:
    text = printed("train_digits.py", "4", folder=tmp_path)
    assert len(re.findall(r"epoch +\d: loss", text)) == 4
    assert found(r"test accuracy of epoch \d: ([\d.]+) %", text)[0] > 92  # twelve epochs give 97
