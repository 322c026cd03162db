"""Nested cross-validation without Spark: tasks with placed splits, trials that are decided, turns, results."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from sparkgap._errors import ConfigurationError, ModelOutputError, RunError
from sparkgap.scheduled.runner import Item
from sparkgap.tuning import nested
from sparkgap.tuning.conductor import Conductor, Limits
from sparkgap.tuning.nested import Turns, nested_cv
from sparkgap.tuning.nested_result import FoldResult, NestedCV
from sparkgap.tuning.nested_task import SPLITS, OuterTask, decided
from sparkgap.tuning.remote import RemoteTrial, StudyFacts

FACTS = StudyFacts("s", ("minimize",))


def objective(trial, train, test, y):
    return float(np.abs(y[test] - trial.suggest_float("a", 0, 9)).mean())


def test_a_decided_trial_has_the_parameters_of_the_best():
    trial = RemoteTrial(4, FACTS, decided({"a": 0.5, "n": 3, "kind": 1}), lambda question: None)
    assert (trial.number, trial.suggest_float("a", 0, 1), trial.suggest_int("n", 1, 5)) == (4, 0.5, 3)
    assert trial.suggest_categorical("kind", [len, max]) is max
    assert (trial.params["n"], trial.user_attrs, trial.datetime_start) == (3, {}, None)
    trial.report(1.0, 0)
    trial.set_user_attr("x", 1)
    assert trial.should_prune() is False
    with pytest.raises(KeyError, match="no parameter 'b'; it had a, n, kind"):
        trial.suggest_float("b", 0, 1)


def test_the_rows_held_out_are_scored():
    codes = np.array([[[1, 1, 2, 0]]], np.uint8)
    task = OuterTask(objective, (FACTS,))
    assert task((0, 7, {"a": 1.0}), y=np.array([0.0, 0, 5, 9]), **{SPLITS: codes}) == 4.0
    with pytest.raises(ModelOutputError, match="Outer fold 0, with the parameters {'a': 1}: The objective returned nan"):
        OuterTask(lambda trial, train, test: math.nan, (FACTS,))((0, 7, {"a": 1}), **{SPLITS: codes})


def test_studies_begin_trials_in_turn():
    studies = [optuna.create_study() for _ in range(2)]
    turns = Turns([Conductor(study, {}, Limits(n)) for study, n in zip(studies, (1, 3), strict=True)])
    items = turns.items()
    assert next(items) == Item(0, (0, 0))
    assert [len(study.trials) for study in studies] == [1, 0]  # none begins before its turn
    assert list(items) == [Item(1, (1, 0)), Item(2, (1, 1)), Item(3, (1, 2))]
    assert turns.asked(Item(3, (1, 2)), {"do": "suggest_int", "name": "n", "low": 4, "high": 4}) == {"value": 4}
    turns.close("over")
    assert [[t.state.name for t in study.trials] for study in studies] == [["FAIL"], ["FAIL"] * 3]
    with pytest.raises(RunError, match="No trial of outer fold 1 has a value; there were 3. The first failure: over"):
        nested._best(1, studies[1])


def test_results():
    study = optuna.create_study()
    folds = [FoldResult(n, {"a": a}, 0.1, score, study, 8, 2) for n, (a, score) in enumerate([(1, 2.0), ("x", 4.0)])]
    found = NestedCV(tuple(folds))
    assert (found.mean, found.std, str(found)) == (3.0, math.sqrt(2), "3 ± 1.4 over 2 folds")
    assert math.isnan(NestedCV(tuple(folds[:1])).std)
    table = found.to_arrow()
    assert table["params_a"].to_pylist() == ["1", "x"]
    assert table["score"].to_pylist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": 3}, "a function of a trial"),
        ({"trials": 0}, "trials=0"),
        ({"trials": 3, "grid": {"a": [1]}}, "with grid= leave it out"),
        ({"data": {"y": np.zeros(4), "test": np.zeros(4)}}, "data= has test, which the objective gets anyway"),
        ({"data": {}}, "nothing with rows"),
        ({"data": {"y": np.zeros(4), "x": np.zeros(5)}}, "y: 4 rows, x: 5 rows"),
        ({"data": {"z": np.zeros(4)}}, "data= has z, which the function does not take"),
        ({"stratify": "z"}, "stratify='z': data= has no such name; it has y"),
        ({"groups": np.zeros(3)}, r"groups= has the shape \(3,\)"),
        ({"folds": 9}, "folds=9: 4 rows cannot be split so"),
        ({"direction": "up"}, "minimize"),
    ],
)
def test_wrong_calls_start_nothing(options, words):
    def fn(trial, train, test, y, x=None):
        raise AssertionError

    call = {"objective": fn, "data": {"y": np.zeros(4)}, "folds": 2, "inner": 2, **options}
    with pytest.raises(ConfigurationError, match=words):
        nested_cv(call.pop("objective"), call.pop("data"), **call)
