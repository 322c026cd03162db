"""What the monitor is told of a search's trials."""

from __future__ import annotations

import pickle

import optuna
import pytest

from sparkgap.monitor import events
from sparkgap.monitor.store import Store
from sparkgap.scheduled.outcome import Ending
from sparkgap.tuning import board
from sparkgap.tuning.conductor import Conductor, Limits


@pytest.fixture
def store():
    made = Store()
    made.say(events.RunStarted(run="r", time=1.0, kind="search", name="f", details={"direction": "minimize"}))
    return made


def trials(store):
    with store.reading("r") as state:
        return state.trials


def ok(*content):
    return Ending("ok", pickle.dumps(content))


def test_a_trial_from_its_begin_to_its_end(store):
    conductor = Conductor(optuna.create_study(), {}, Limits(2))
    conductor.board.open(store, "r")
    numbers = conductor.numbers()
    assert next(numbers) == 0
    assert trials(store).kept[0].started > 0
    value = conductor.asked(0, {"do": "suggest_float", "name": "x", "low": 0.1, "high": 1.0, "step": None, "log": True})[
        "value"
    ]
    conductor.asked(0, {"do": "suggest_categorical", "name": "kind", "choices": ["round", None]})
    conductor.asked(0, {"do": "report", "value": 0.5, "step": 3})
    known = trials(store).kept[0]
    assert (known.state, known.params["x"], known.report) == ("running", value, (3.0, 0.5))
    assert trials(store).distributions == {
        "x": {"low": 0.1, "high": 1.0, "log": True}, "kind": {"choices": ["round", None]},
    }  # fmt: skip
    conductor.told(0, ok("values", [0.25]))
    assert (known.state, known.values, known.params["x"]) == ("complete", (0.25,), value)
    assert known.seconds > 0
    next(numbers)
    conductor.close("The search was ended.")
    assert (trials(store).kept[1].state, trials(store).kept[1].note) == ("failed", "The search was ended.")


@pytest.mark.parametrize(
    ("ending", "state", "note"),
    [
        (ok("pruned", ""), "pruned", ""),
        (ok("unusable", "It is no float."), "failed", "It is no float."),
        (Ending("exception", texts={"error": "ValueError", "message": "bad"}), "failed", "ValueError: bad"),
    ],
)
def test_how_trials_end(store, ending, state, note):
    conductor = Conductor(optuna.create_study(), {}, Limits(1))
    conductor.board.open(store, "r")
    next(conductor.numbers())
    conductor.told(0, ending)
    assert (trials(store).kept[0].state, trials(store).kept[0].note) == (state, note)


def test_trials_of_earlier_searches_are_told_too_and_those_before_the_run_is_known(store):
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_int("n", 1, 4), n_trials=3)
    conductor = Conductor(study, {}, Limits(1))
    next(conductor.numbers())
    assert trials(store).total == 0
    conductor.board.open(store, "r")
    assert [known.state for known in trials(store).kept.values()] == ["complete"] * 3 + ["running"]
    assert trials(store).distributions["n"] == {"low": 1, "high": 4, "log": False}


def test_of_a_very_long_study_only_what_would_be_kept_is_told(store, monkeypatch):
    monkeypatch.setattr(board, "MAX_BEST", 2)
    monkeypatch.setattr(board, "MAX_LATEST", 3)
    study = optuna.create_study(direction="maximize")
    for value in (5.0, 1.0, 9.0, 0.0, 0.0, 0.0):
        study.add_trial(optuna.trial.create_trial(value=value))
    board.Board(study).open(store, "r")
    assert set(trials(store).kept) == {0, 2, 3, 4, 5}


def test_where_the_monitor_is_off_nothing_is_told():
    store = Store()
    conductor = Conductor(optuna.create_study(), {}, Limits(1))
    conductor.board.open(store, "r")
    next(conductor.numbers())
    assert store.runs() == []


def test_reports_are_told_once_a_second_at_most_and_the_last_one_in_any_case(store):
    conductor = Conductor(optuna.create_study(), {}, Limits(1))
    conductor.board.open(store, "r")
    next(conductor.numbers())
    before = store.version
    for step in range(500):
        conductor.asked(0, {"do": "report", "value": float("nan") if step == 499 else 1.0, "step": step})
    assert store.version - before < 100
    conductor.told(0, ok("values", [0.25]))
    assert trials(store).kept[0].report == (499.0, None)
