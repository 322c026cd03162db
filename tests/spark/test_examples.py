"""The examples, run as a user would, and what they print."""

from __future__ import annotations

import importlib.util
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


def test_a_cnn_learns_clothes(tmp_path: Path) -> None:
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    text = printed("fashion_cnn.py", "6000", folder=tmp_path)
    assert len(re.findall(r"epoch \d: loss", text)) == 4
    assert found(r"test accuracy: ([\d.]+) %", text)[0] > 75  # all 60,000 rows give 90


def test_photographs_are_told_apart_by_a_new_last_layer(tmp_path: Path) -> None:
    text = printed("transfer_learning.py", folder=tmp_path)
    right, of, chance = found(r"([\d.]+) % of (\d+) pieces, by chance (\d+) %", text)
    assert (of, chance) == (140, 14)
    assert right > 60


def test_keras_trains_on_jax(tmp_path: Path) -> None:
    text = printed("keras_on_jax.py", "2", folder=tmp_path)
    assert found(r"test accuracy of Keras on jax: ([\d.]+) %", text)[0] > 85  # six epochs give 95


def test_workers_find_the_components_of_all_rows(tmp_path: Path) -> None:
    text = printed("black_box.py", folder=tmp_path)
    share, apart = found(r"8 components have ([\d.]+) % of the variance; to those of one machine: ([\d.e+-]+)", text)
    assert 40 < share < 50
    assert apart < 1e-3


@pytest.mark.parametrize(
    ("package", "example", "least"),
    [
        ("lightning", "lightning_trainer", 80),
        ("accelerate", "accelerate_loop", 80),
        ("accelerate", "transformers_trainer", 40),
    ],
)
def test_other_libraries_loops_stay_as_they_are(package: str, example: str, least: int, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None or importlib.util.find_spec("transformers") is None:
        pytest.skip(f"{package} or transformers is not installed")
    text = printed(f"{example}.py", "2", folder=tmp_path)
    workers, steps, right = found(r"(\d+) workers, (\d+) steps; test accuracy: ([\d.]+) %", text)
    assert (workers, steps) == (2, 126)  # two epochs of 4,000 rows, 32 for each worker
    assert right > least
