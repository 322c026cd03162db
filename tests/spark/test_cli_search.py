"""`sparkgap search`, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.local

JOBS = """
import threading
from pathlib import Path

def square(x, kind):
    if kind == "bad":
        raise ValueError("no such kind")
    return (x - 2) ** 2

def never(trial):
    raise ValueError("never works")

def slow(trial):
    if trial.number:
        Path("begun").write_text(str(trial.number))  # a named pipe: whoever reads it waits for this
        threading.Event().wait(600)
    return 1.5
"""
SPACE = """{
  "objective": "searched_of_test:square", "trials": 6, "parallel": 1, "sampler": {"name": "RandomSampler", "seed": 3},
  "space": {"x": {"int": [-5, 10]}, "kind": {"choice": ["good", "bad"]}}
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("searches")
    (made / "searched_of_test.py").write_text(JOBS)
    (made / "space.json").write_text(SPACE)
    (made / "never.json").write_text('{"objective": "searched_of_test:never", "trials": 2}')
    (made / "slow.json").write_text(
        '{"objective": "searched_of_test:slow", "trials": 3, "storage": "slow.journal", "parallel": 1}'
    )
    return made


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sparkgap", "search", *arguments, "--master", "local[2]"]


def sparkgap(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def test_a_space_in_a_file_and_going_on(folder: Path) -> None:
    done = sparkgap(folder, "space.json", "--storage", "s.journal", "--out", "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "out.jsonl").open()]
    assert [row["number"] for row in rows] == list(range(6))
    good = [row for row in rows if row["state"] == "complete"]
    assert {row["params"]["kind"] for row in rows if row["state"] == "fail"} == {"bad"}
    assert all(row["values"] == [(row["params"]["x"] - 2) ** 2] for row in good)
    best = min(good, key=lambda row: row["values"])
    assert done.stdout == f"Best trial {best['number']}: {best['values'][0]}\n  x = {best['params']['x']}\n  kind = good\n"
    assert "6 trials in the study after " in done.stderr
    assert f"{len(good)} with a value, {6 - len(good)} failed\n" in done.stderr
    assert "ValueError: no such kind" in done.stderr
    done = sparkgap(folder, "space.json", "--storage", "s.journal", "--trials", "8", "--out", "out.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(folder / "out.parquet")
    assert table["params_x"].to_pylist()[:6] == [row["params"]["x"] for row in rows]
    assert table.num_rows == 8


def test_no_trial_with_a_value(folder: Path) -> None:
    done = sparkgap(folder, "never.json", "--out", "-")
    assert done.returncode == 1
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["fail", "fail"]
    assert "2 trials in the study" in done.stderr
    assert "never works" in done.stderr


def test_ctrl_c_says_where_the_trials_are(folder: Path) -> None:
    os.mkfifo(folder / "begun")
    call = command("slow.json", "--out", "slow.jsonl", "--conf", "spark.sparkgap.monitor.progress=false")
    process = subprocess.Popen(
        call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert (folder / "begun").read_text() == "1"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Cancelled with 1 finished trials; slow.journal has them: the same command goes on from there.\n" in said
    assert [json.loads(line)["state"] for line in (folder / "slow.jsonl").open()] == ["complete", "fail"]
    storage = optuna.storages.journal.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "slow.journal")))
    study = optuna.load_study(study_name="searched_of_test.slow", storage=storage)
    assert study.best_value == 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"objective": "searched_of_test:square", "trails": 3}', "Did you mean trials?"),
        ('{"objective": "searched_of_test:cube", "trials": 3}', "has no 'cube'; it has Path, never, slow, square"),
        ('{"objective": "searched_of_test:square", "space": {"x": {"int": [1, 2]}}, "trials": 1}', "it also needs kind"),
        ('{"objective": "searched_of_test:never"}', "never end"),
    ],
)
def test_wrong_files_are_named_before_spark_starts(folder: Path, text: str, words: str) -> None:
    from click.testing import CliRunner

    from sparkgap import cli

    (folder / "wrong.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(cli, "_session", lambda *_: pytest.fail("Spark was started"))
        done = CliRunner().invoke(cli.cli, ["search", "wrong.json"])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert words in done.stderr
