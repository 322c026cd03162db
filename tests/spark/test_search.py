"""`gap.search` on real Spark: Optuna's study on the driver, trials as tasks that ask it while they run."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest

import sparkgap as gap
from sparkgap.monitor.driver import monitor
from sparkgap.monitor.web.view import run_view

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def branin(trial: Any) -> float:
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    first = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return first**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def test_trials_are_tasks_and_the_study_is_optunas(spark: SparkSession) -> None:
    study = gap.search(branin, trials=30, parallel=2, sampler=optuna.samplers.TPESampler(seed=1, constant_liar=True))
    assert isinstance(study, optuna.Study)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 30
    assert study.best_value < 5
    assert all(set(t.params) == {"x", "y"} for t in study.trials)
    assert len({tuple(t.params.values()) for t in study.trials}) == 30
    assert len(optuna.importance.get_param_importances(study)) == 2


def test_a_trial_is_pruned_while_it_runs(spark: SparkSession) -> None:
    def objective(trial: Any) -> float:
        bad = trial.number % 2
        for step in range(200):
            trial.report(float(bad), step)
            if trial.should_prune():
                raise optuna.TrialPruned
            time.sleep(0.005)
        return float(bad)

    pruner = optuna.pruners.ThresholdPruner(upper=0.5)
    study = gap.search(objective, trials=4, parallel=2, pruner=pruner)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]
    for trial in study.trials:
        if trial.state.name == "PRUNED":
            assert len(trial.intermediate_values) == 1


def test_a_failed_trial_is_told_as_failed(spark: SparkSession) -> None:
    def objective(trial: Any) -> float:
        n = trial.suggest_int("n", 0, 3)
        print("trying", n)
        if n == 1:
            raise ValueError("one is bad")
        if n == 2:
            sys.exit(5)
        return float("nan") if n == 3 else 0.0

    study = gap.search(objective, grid={"n": [0, 1, 2, 3]}, parallel=1)
    by_n = {t.params["n"]: t for t in study.trials}
    assert {n: t.state.name for n, t in by_n.items()} == {0: "COMPLETE", 1: "FAIL", 2: "FAIL", 3: "FAIL"}
    assert "one is bad" in by_n[1].user_attrs["error"]
    assert "in objective" in by_n[1].user_attrs["traceback"]
    assert "trying 1" in by_n[1].user_attrs["output"]
    assert by_n[2].user_attrs["kind"] == "exit"
    with pytest.raises(gap.TaskError, match="one is bad"):
        gap.search(objective, grid={"n": [1]}, catch=False)


def test_a_slow_trial_is_ended(spark: SparkSession) -> None:
    def objective(trial: Any) -> float:
        if trial.number == 0:
            time.sleep(600)
        return 1.0

    study = gap.search(objective, trials=3, trial_timeout=1.0)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].user_attrs["kind"] == "timeout"


def test_data_reaches_trials_and_reports_are_seen(spark: SparkSession) -> None:
    def objective(trial: Any, x: np.ndarray) -> float:
        gap.report(trial=trial.number)
        return float(x.sum()) + trial.suggest_float("a", 0, 1)

    study = gap.search(objective, trials=3, data={"x": np.arange(1000.0)})
    assert 499500 <= study.best_value <= 499501
    latest = gap.runs(limit=1).to_pylist()[0]
    assert (latest["kind"], latest["rows_out"], latest["status"]) == ("search", 3, "done")
    with pytest.raises(gap.ConfigurationError, match="does not take"):
        gap.search(objective, trials=3, data={"z": np.arange(3.0)})


def test_a_search_is_seen_by_the_monitor(spark: SparkSession) -> None:
    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 1e-3, 1.0, log=True)
        kind = trial.suggest_categorical("kind", ["round", "flat"])
        trial.report(x, 1)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise ValueError("two is bad")
        return x + (kind == "flat")

    study = gap.search(objective, trials=6, direction="maximize")
    best = sorted((t for t in study.trials if t.state.name == "COMPLETE"), key=lambda t: -t.value)
    run = gap.runs(limit=1).to_pylist()[0]["run"]
    history = monitor().store.history
    assert history is not None
    with monitor().store.reading(run) as live:
        for state in (live, history.read(run)):
            assert state is not None
            found = run_view(state)["search"]
            assert found["counts"] == {"complete": 4, "pruned": 1, "failed": 1}
            rows = [dict(zip(found["columns"], row, strict=True)) for row in found["trials"]]
            assert [r["number"] for r in rows[:4]] == [t.number for t in best]
            assert [r["values"] for r in rows[:4]] == [[t.value] for t in best]
            assert all(r["params"] == [[v] for v in study.trials[r["number"]].params.values()] for r in rows)
            assert all(r["seconds"] > 0 for r in rows)
            assert "two is bad" in next(r["note"] for r in rows if r["state"] == "failed")
            x = {"name": "x", "low": 1e-3, "high": 1.0, "log": True}
            assert found["axes"] == [x, {"name": "kind", "choices": ["round", "flat"]}]


def test_a_search_goes_on_after_its_driver_was_killed(spark: SparkSession, kind: str, tmp_path: Path) -> None:
    if kind != "classic":
        pytest.skip("one kind is enough for a process of its own")
    storage = tmp_path / "study.log"
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, time
        import sparkgap as gap

        def objective(trial):
            time.sleep(0.1)
            return trial.suggest_float("x", 0, 1)

        def killed(study, trial):
            if len([t for t in study.trials if t.state.is_finished()]) == 5:
                os.kill(os.getpid(), 9)

        gap.session("local[2]", conf={{"spark.ui.enabled": "false"}})
        gap.search(objective, trials=20, storage={str(storage)!r}, study_name="s", parallel=2, callbacks=[killed])
        """)
    )
    got = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=120, check=False)
    assert got.returncode == -9

    def objective(trial: Any) -> float:
        return float(trial.suggest_float("x", 0, 1))

    study = gap.search(objective, trials=20, storage=str(storage), study_name="s", parallel=2)
    states = [t.state.name for t in study.trials]
    assert states.count("COMPLETE") == 20
    assert not {"RUNNING", "WAITING"} & set(states)
    assert len(states) <= 22  # the two that ran with the driver have failed


def test_the_best_trial_keeps_what_it_made(spark: SparkSession, tmp_path: Path) -> None:
    from sparkgap.tuning.kept import best_of

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -5, 5)
        trial.keep({"x": x, "number": trial.number})
        return float(x * x)

    study = gap.search(objective, trials=8, checkpoint=tmp_path / "best", keep=2)
    assert best_of(study) == {"x": study.best_params["x"], "number": study.best_trial.number}
    best = sorted(study.trials, key=lambda t: t.value or 0.0)[:2]
    assert sorted(p.name.rpartition("-")[2] for p in (tmp_path / "best").iterdir()) == sorted(f"{t.number}.pkl" for t in best)
    failed = gap.search(lambda trial: trial.keep(1), trials=1)
    assert "trial.keep needs a folder" in failed.trials[0].user_attrs["error"]
