"""Searches over an engine of threads: what the study holds in the end."""

from __future__ import annotations

import math
import threading
from functools import partial

import optuna
import pytest
from optuna.trial import TrialState

from sparkgap._errors import ConfigurationError, TaskError
from sparkgap.tuning.api import search
from sparkgap.tuning.remote import TrialPruned

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def branin(trial):
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    a = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return a**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def states(study):
    return [t.state for t in study.trials]


def square(trial):
    return trial.suggest_float("x", -1, 1) ** 2


def test_one_at_a_time_is_what_optuna_does():
    seeded = optuna.samplers.TPESampler(seed=3, constant_liar=True)
    ours = search(branin, trials=25, parallel=1, sampler=seeded)
    theirs = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3, constant_liar=True))
    theirs.optimize(branin, n_trials=25)
    assert [t.params for t in ours.trials] == [t.params for t in theirs.trials]
    assert [t.value for t in ours.trials] == [t.value for t in theirs.trials]


@pytest.mark.parametrize("parallel", [1, 4])
def test_branin(parallel, engine):
    study = search(branin, trials=40, parallel=parallel)
    assert isinstance(study, optuna.Study)
    assert states(study) == [COMPLETE] * 40
    assert all(t.params.keys() == {"x", "y"} and t.duration is not None for t in study.trials)
    assert study.best_value < 10
    assert study.sampler._constant_liar
    assert engine[0].options["timeout"] is None
    assert engine[0].on_error == "collect"


def test_trials_run_at_the_same_time():
    together = threading.Barrier(3, timeout=30)

    def objective(trial):
        together.wait()
        return trial.suggest_float("x", 0, 1)

    assert states(search(objective, trials=6, parallel=3)) == [COMPLETE] * 6


@pytest.mark.parametrize("exception", [optuna.TrialPruned, TrialPruned, type("Mine", (optuna.TrialPruned,), {})])
def test_a_bad_trial_is_pruned(exception):
    def objective(trial):
        for step in range(5):
            trial.report(100.0 if trial.number == 6 else 1.0 - step / 10, step)
            if trial.should_prune():
                raise exception
        return 0.5

    study = search(objective, trials=8, parallel=1, pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    assert states(study) == [COMPLETE] * 6 + [PRUNED, COMPLETE]
    assert study.trials[6].intermediate_values == {0: 100.0}
    assert study.trials[6].value == 100.0  # as Optuna does
    assert study.trials[0].intermediate_values == pytest.approx({s: 1.0 - s / 10 for s in range(5)})


def test_failures_are_told_with_their_reason_and_are_not_tried_again():
    tried = []

    def objective(trial):
        tried.append(trial.number)
        if trial.number % 2:
            raise LookupError("no such thing")
        return 1.0

    study = search(objective, trials=6, parallel=2)
    assert sorted(tried) == list(range(6))
    assert sorted(states(study)) == sorted([COMPLETE, FAIL] * 3)
    failed = study.trials[1]
    assert failed.user_attrs["error"] == "LookupError: no such thing"
    assert "in objective" in failed.user_attrs["traceback"]
    assert failed.user_attrs["output"] == "what it printed"
    assert failed.user_attrs["kind"] == "exception"


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (math.nan, "nan"), (None, "None"), ("word", "'word' of type str"), ([1.0, 2.0], "2 values"), ([], "0 values"),
        (object(), "of type object"),
    ],
)  # fmt: skip
def test_what_is_no_value_fails_the_trial(returned, said):
    study = search(lambda trial: returned, trials=2)
    assert states(study) == [FAIL, FAIL]
    assert said in study.trials[0].user_attrs["error"]
    plain = optuna.create_study()
    with optuna_quiet():
        plain.optimize(lambda trial: returned, n_trials=1)
    assert states(plain) == [FAIL]


@pytest.mark.parametrize("returned", [3, True, "0.5", [2.5], (1,)])
def test_what_is_a_value_is_one_for_optuna_too(returned):
    study, plain = search(lambda trial: returned, trials=1), optuna.create_study()
    if returned != "0.5":  # Optuna takes a string for a sequence
        plain.optimize(lambda trial: returned, n_trials=1)
        assert study.best_value == plain.best_value


class optuna_quiet:
    def __enter__(self):
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def __exit__(self, *exception):
        optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_first_failure_ends_the_search_if_not_caught():
    def objective(trial):
        if trial.number == 3:
            raise LookupError("no such thing")
        return trial.number

    study = optuna.create_study()
    with pytest.raises(TaskError, match="no such thing"):
        search(objective, trials=50, parallel=1, study=study, catch=False)
    assert states(study) == [COMPLETE] * 3 + [FAIL]


def test_several_objectives():
    refused = []

    def objective(trial):
        for method in (trial.should_prune, partial(trial.report, 1.0, 0)):
            with pytest.raises(NotImplementedError, match="several"):
                method()
            refused.append(1)
        x = trial.suggest_float("x", 0, 1)
        return (x, 1 - x) if trial.number else x

    study = search(objective, trials=10, directions=["minimize", "maximize"])
    assert states(study) == [FAIL] + [COMPLETE] * 9
    assert "1 values; the study has 2" in study.trials[0].user_attrs["error"]
    assert study.best_trials
    assert len(refused) == 20


def test_choices_of_any_kind_stay_in_the_task():
    marker = object()
    got = []

    def objective(trial):
        got.append(trial.suggest_categorical("layer", [marker, dict]))
        return trial.suggest_categorical("act", ["relu", None, True, 2, 0.5]) == "relu"

    study = search(objective, trials=12, parallel=1)
    assert states(study) == [COMPLETE] * 12
    assert [[marker, dict][t.params["layer"]] for t in study.trials] == got


def test_callbacks_see_finished_trials_and_can_stop_the_search():
    seen = []

    def callback(study, trial):
        seen.append((trial.number, trial.state))
        if len(seen) == 5:
            study.stop()

    study = search(square, parallel=1, callbacks=[callback])
    assert seen == [(n, COMPLETE) for n in range(5)]
    assert len(study.trials) == 5
    with pytest.raises(RuntimeError, match="supposed to be invoked inside"):
        study.stop()  # the search is over


def test_what_a_callback_raises_ends_the_search_and_leaves_nothing_running():
    def callback(study, trial):
        raise ZeroDivisionError("mine")

    study = optuna.create_study()
    with pytest.raises(ZeroDivisionError, match="mine"):
        search(square, trials=9, parallel=3, study=study, callbacks=[callback])
    assert RUNNING not in states(study)
    assert COMPLETE in states(study)


class Broken(optuna.samplers.RandomSampler):
    """A sampler that fails at the fourth trial."""

    def sample_relative(self, study, trial, search_space):
        if trial.number == 3:
            raise ArithmeticError("no sample")
        return {}


def test_what_a_sampler_raises_ends_the_search_and_leaves_nothing_running():
    study = optuna.create_study(sampler=Broken())
    with pytest.raises(ArithmeticError, match="no sample"):
        search(square, trials=9, parallel=2, study=study)
    assert RUNNING not in states(study)
    assert study.trials[3].user_attrs["kind"] == "cancelled"


def test_an_answer_to_a_trial_that_is_over_is_an_error():
    from sparkgap.tuning.conductor import Conductor, Limits

    conductor = Conductor(optuna.create_study(), {}, Limits(trials=2))
    numbers = conductor.numbers()
    number = next(numbers)
    assert "error" not in conductor.asked(number, {"do": "should_prune"})
    conductor.close("over")
    assert "has ended" in conductor.asked(number, {"do": "should_prune"})["message"]
    assert list(numbers) == []


def test_a_report_that_the_study_does_not_take_is_logged(caplog):
    from sparkgap.tuning.conductor import Conductor, Limits

    conductor = Conductor(optuna.create_study(), {}, Limits(trials=1))
    (number,) = conductor.numbers()
    conductor.asked(number, {"do": "report", "value": "x", "step": 0})
    assert "A report of trial 0 is lost: TypeError" in caplog.text


def test_a_trial_can_stop_the_study():
    def objective(trial):
        if trial.number == 2:
            trial.study.stop()
        return trial.number

    study = search(objective, trials=50, parallel=1)
    assert len(study.trials) == 3
    assert len(search(square, trials=5, study=study).trials) == 5  # another search goes on


def test_patience():
    study = search(lambda trial: max(10 - trial.number, 4), patience=3, parallel=1)
    assert len(study.trials) == 7 + 3
    again = search(lambda trial: 5, patience=3, parallel=1, study=study)
    assert len(again.trials) == 10  # the study is on its plateau already


def test_no_trial_begins_after_the_timeout(monkeypatch):
    from sparkgap.tuning import conductor

    clock = iter(range(10**6))
    monkeypatch.setattr(conductor.time, "monotonic", lambda: float(next(clock)))
    study = search(square, timeout=6, parallel=1)
    assert states(study) == [COMPLETE] * 4  # one look at the clock before each trial, and one before all


def test_tasks_are_started_only_if_there_is_something_to_do(engine):
    study = search(square, trials=3)
    assert search(square, trials=3, study=study) is study
    assert len(engine) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "never end"),
        ({"trials": 0}, "trials=0"),
        ({"trials": 2.5}, "trials=2.5"),
        ({"trials": 1, "parallel": 0}, "parallel=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"trials": 1, "callbacks": 3}, "callbacks=3"),
        ({"trials": 1, "grid": {"x": [1]}}, "Leave out trials"),
        ({"trials": 1, "direction": "up"}, "'minimize' or 'maximize'"),
        ({"trials": 1, "direction": "maximize", "directions": ["maximize"]}, "one of them"),
        ({"trials": 1, "directions": "maximize"}, "a list"),
        ({"trials": 1, "storage": "a.db"}, "sqlite:///a.db"),
        ({"trials": 1, "storage": "sqlite://", "objective": lambda trial: 1}, "study_name"),
        ({"trials": 1, "storage": "sqlite://", "objective": partial(square)}, "study_name"),
        ({"trials": 1, "objective": 5}, "this is a int"),
        ({"trials": 1, "study": optuna.create_study(), "study_name": "a"}, "study_name"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ConfigurationError, match=said):
        search(options.pop("objective", square), **options)
