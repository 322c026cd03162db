"""A trial in its task, answered by a real ``optuna.Trial`` over JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.scheduled import asking
from sparkgap.tuning.answers import answer
from sparkgap.tuning.plateau import Plateau
from sparkgap.tuning.remote import RemoteTrial, StudyFacts


def pair(**options):
    """Return a trial of Optuna and the one that a task would have of it."""
    study = optuna.create_study(**options)
    real = study.ask()

    def ask(question):
        return json.loads(json.dumps(answer(real, json.loads(json.dumps(question)), {}, {})))

    return real, RemoteTrial(real.number, StudyFacts(study.study_name, ("minimize",)), ask, ask)


def test_suggestions_are_those_of_optuna():
    real, remote = pair()
    got = {
        "a": remote.suggest_float("a", 1, 2),
        "b": remote.suggest_float("b", 1e-5, 1, log=True),
        "c": remote.suggest_float("c", 0, 1, step=0.25),
        "d": remote.suggest_int("d", 1, 9, step=2),
        "e": remote.suggest_categorical("e", ["x", None, 1.5]),
    }
    assert remote.params == real.params == got
    assert remote.distributions == real.distributions
    assert type(got["d"]) is int
    assert remote.suggest_float("a", 1, 2) == got["a"]
    assert remote.datetime_start == real.datetime_start
    assert remote.relative_params == real.relative_params


def test_deprecated_suggestions():
    _, remote = pair()
    with pytest.warns(FutureWarning, match="suggest_uniform"):
        assert 0 <= remote.suggest_uniform("a", 0, 1) <= 1
    with pytest.warns(FutureWarning, match="loguniform"):
        assert 0.1 <= remote.suggest_loguniform("b", 0.1, 1) <= 1
    with pytest.warns(FutureWarning, match="discrete"):
        assert remote.suggest_discrete_uniform("c", 0, 1, 0.5) in (0, 0.5, 1)


def test_attributes():
    real, remote = pair()
    remote.set_user_attr("rows", [1, {"a": None}])
    real.set_user_attr("sparkgap", {"run": "hidden"})
    assert remote.user_attrs == {"rows": [1, {"a": None}]}
    with pytest.raises(TypeError, match=r"set_user_attr\('model'\).*JSON"):
        remote.set_user_attr("model", object())


def test_errors_of_the_driver_are_raised_in_the_task():
    _, remote = pair()
    with pytest.raises(ValueError, match="low <= high|low=2"):
        remote.suggest_float("x", 2, 1)
    remote.suggest_float("y", 0, 1)
    with pytest.raises(ValueError, match="distribution kind"):
        remote.suggest_int("y", 0, 1)
    real, _ = pair()
    assert answer(real, {"do": "storage"}, {}, {}) == {"error": "ValueError", "message": "A trial cannot ask for 'storage'."}
    assert answer(real, {"do": "read", "what": "study"}, {}, {})["error"] == "ValueError"
    assert answer(real, {"do": "suggest_float", "nonsense": 1}, {}, {})["error"] == "TypeError"


class Broken(optuna.samplers.BaseSampler):
    """A sampler whose own error has a class that a task cannot have."""

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        raise type("OwnError", (Exception,), {})("no sample")


def test_an_error_of_another_kind_is_a_runtime_error_with_its_name():
    _, remote = pair(sampler=Broken())
    with pytest.raises(RuntimeError, match="OwnError: no sample"):
        remote.suggest_float("x", 0, 1)


@pytest.mark.parametrize(("value", "step", "error"), [("a", 0, TypeError), (1.0, "b", TypeError), (1.0, -1, ValueError)])
def test_bad_reports(value, step, error):
    _, remote = pair()
    with pytest.raises(error, match="report"):
        remote.report(value, step)


def test_a_second_report_of_a_step_is_ignored_aloud():
    real, remote = pair()
    remote.report(1, 0)
    with pytest.warns(UserWarning, match="step 0 is ignored"):
        remote.report(2.0, 0)
    assert real.study.trials[0].intermediate_values == {0: 1.0}


def test_no_driver_is_no_answer():
    asking.connect(None)
    remote = RemoteTrial(0, StudyFacts("s", ("minimize",)), asking.ask, asking.tell)
    with pytest.raises(asking.Unanswered):
        remote.suggest_float("x", 0, 1)


def test_tasks_load_no_optuna():
    code = "import sys, sparkgap.tuning.remote; assert not {'optuna', 'pyspark'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.lists(st.none() | st.integers(-5, 5), max_size=40), st.integers(1, 6), st.booleans())
def test_plateau_of_one_objective(values, patience, maximize):
    plateau = Plateau(patience, [maximize])
    best, since = None, 0
    for value in values:
        plateau.note(None if value is None else [value])
        better = value is not None and (best is None or (value > best if maximize else value < best))
        best, since = (value, 0) if better else (best, since + 1)
        assert plateau.since == since
        assert plateau.reached == (since >= patience)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_plateau_of_several_objectives(points):
    plateau = Plateau(1, [False, False])
    for n, point in enumerate(points):
        before = points[:n]
        plateau.note(point)
        covered = any(a <= point[0] and b <= point[1] for a, b in before)
        assert plateau.reached == covered
