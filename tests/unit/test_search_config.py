"""The file of `sparkgap search`: formats, keys, spaces, samplers, and what is wrong with them."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from sparkgap._cli_search import best, rows, tally
from sparkgap._errors import ConfigurationError
from sparkgap._search_config import KEYS, objective_of, options_of, read

CONFIG = {
    "objective": "train:loss", "trials": 5, "timeout": 60, "memory": "2g", "gpus": 0.5, "catch": False,
    "sampler": {"name": "TPESampler", "seed": 1}, "pruner": "MedianPruner", "preload": ["torch"],
    "space": {"lr": {"float": [1e-5, 0.1], "log": True}, "act": {"choice": ["relu", "tanh"]}},
}  # fmt: skip
TOML = """
objective = "train:loss"
trials = 5
timeout = 60
memory = "2g"
gpus = 0.5
catch = false
sampler = {name = "TPESampler", seed = 1}
pruner = "MedianPruner"
preload = ["torch"]
[space]
lr = {float = [1e-5, 1e-1], log = true}
act = {choice = ["relu", "tanh"]}
"""
needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no TOML by itself")


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


@needs_toml
def test_formats_say_the_same(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.toml", TOML)) == CONFIG
    assert read(written(tmp_path, "a.json", json.dumps(CONFIG))) == CONFIG
    assert read(written(tmp_path, "a.yaml", yaml.safe_dump(CONFIG))) == CONFIG


def test_without_a_toml_reader_the_error_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ConfigurationError, match="Install tomli, or write the file as JSON or YAML"):
        read(written(tmp_path, "a.toml", TOML))
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match="needs pyyaml"):
        read(written(tmp_path, "a.yml", "objective: a:b"))


def test_options_are_those_of_search() -> None:
    import inspect

    import sparkgap as gap

    options = options_of(CONFIG)
    assert isinstance(options["sampler"], optuna.samplers.TPESampler)
    assert isinstance(options["pruner"], optuna.pruners.MedianPruner)
    assert options["memory"] == "2g"
    assert set(KEYS) - {"objective", "space"} <= set(inspect.signature(gap.search).parameters)


WRONG = [
    ({"trails": 5}, r"'trails'\. Did you mean trials\? Known are: objective, trials, timeout"),
    ({"objective": None}, 'objective is None. Write objective = "module:function"'),
    ({"trials": "5"}, "trials is '5'; give a whole number"),
    ({"trials": True}, "trials is True; give a whole number"),
    ({"timeout": "1h"}, "timeout is '1h'; give a number"),
    ({"memory": 1.5}, "memory is 1.5; give a whole number or text"),
    ({"grid": 3}, "grid is 3; give a table or a list"),
]


@pytest.mark.parametrize(("part", "words"), WRONG)
def test_wrong_files(tmp_path: Path, part: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(written(tmp_path, "a.json", json.dumps({**CONFIG, **part})))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "a.json cannot be read: JSONDecodeError"),
        ("a.yaml", "a: [", "a.yaml cannot be read: ParserError"),
        ("a.json", "[1]", "holds a list"),
        ("a.ini", "", "its suffix is none of .toml, .json, .yaml, .yml"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(written(tmp_path, name, text))
    with pytest.raises(ConfigurationError, match="There is no file"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sampler": "TPSampler"}, r"sampler has 'TPSampler'\. Did you mean TPESampler\? Known are: .*GridSampler"),
        ({"pruner": {"name": "MedianPruner", "sed": 1}}, "pruner: Optuna's MedianPruner does not take this: .*sed"),
        ({"pruner": {"name": "PercentilePruner", "percentile": 200.0}}, "pruner: Optuna's PercentilePruner does not take"),
        ({"sampler": {"seed": 1}}, "Give a name"),
        ({"grid": {"a": [1]}}, "Leave out trials"),
        ({"trials": None}, "never end"),
    ],
)
def test_wrong_options(config: dict[str, Any], words: str) -> None:
    both = {"objective": "a:b", "trials": 3, **config}
    with pytest.raises(ConfigurationError, match=words):
        options_of({name: value for name, value in both.items() if value is not None})


def loss(lr: float, layers: int, act: str, momentum: float = 0.9) -> tuple[Any, ...]:
    return lr, layers, act, momentum


def watched(trial: Any, lr: float) -> Any:
    return trial.number, lr


SPACE = {
    "lr": {"float": [1e-5, 1e-1], "log": True}, "layers": {"int": [1, 9], "step": 2}, "act": {"choice": ["relu", None, 3]},
}  # fmt: skip


def test_a_space_makes_an_objective_of_a_function_of_parameters() -> None:
    study = optuna.create_study()
    trial = study.ask()
    found = pickle.loads(pickle.dumps(objective_of(loss, SPACE)))(trial)
    assert found == (*(trial.params[name] for name in ("lr", "layers", "act")), 0.9)
    distributions = optuna.distributions
    assert trial.distributions == {
        "lr": distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "layers": distributions.IntDistribution(1, 9, step=2),
        "act": distributions.CategoricalDistribution(["relu", None, 3]),
    }
    assert objective_of(watched, {"lr": {"float": [0, 0]}})(optuna.create_study().ask()) == (0, 0.0)
    assert objective_of(loss, None) is loss


def test_a_study_in_a_storage_is_found_by_the_users_function() -> None:
    made = objective_of(loss, SPACE)
    assert (made.__module__, made.__qualname__) == (__name__, "loss")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ([1], "Give one of float"),
        ({}, "Give one of float"),
        ({"float": [1, 2], "int": [1, 2]}, "Give one of float"),
        ({"float": [2, 1]}, "the lower one first"),
        ({"float": [1]}, "two numbers"),
        ({"int": [1, 2.5]}, "two numbers"),
        ({"choice": []}, "Give a list"),
        ({"choice": "ab"}, "Give a list"),
        ({"choice": [1], "log": True}, "'log' beside choice. Known are: none"),
        ({"float": [1, 2], "lg": True}, "Did you mean log"),
        ({"float": [1, 2], "log": 1}, "true or false"),
        ({"int": [1, 2], "step": 0.5}, "step is 0.5; give a whole number"),
        ({"float": [1, 2], "log": True, "step": 1}, "log and step"),
        ({"float": [0, 2], "log": True}, "Begin above 0"),
    ],
)
def test_wrong_spaces(about: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        objective_of(lambda lr: lr, {"lr": about})


def test_the_function_must_take_the_space() -> None:
    with pytest.raises(ConfigurationError, match="it does not take size, and it also needs layers, act"):
        objective_of(loss, {"lr": {"int": [1, 2]}, "size": {"int": [1, 2]}})
    objective_of(lambda **anything: 0, SPACE)
    with pytest.raises(ConfigurationError, match="Give parameters"):
        objective_of(loss, {})


def test_what_is_said_at_the_end() -> None:
    study = optuna.create_study()
    assert (tally(study, 1), best(study)) == ("0 trials in the study after 1.0 s: none", "")
    study.enqueue_trial({"a": 3})
    study.optimize(lambda trial: float(trial.suggest_int("a", 1, 5)), n_trials=1)
    for number in range(7):
        trial = study.ask()
        trial.set_user_attr("error", f"ValueError: {number}\nmore")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert best(study) == "Best trial 0: 3.0\n  a = 3"
    head, *rest = tally(study, 2).splitlines()
    assert head == "8 trials in the study after 2.0 s: 1 with a value, 7 failed"
    assert rest == [f"  Trial {n + 1}: ValueError: {n}" for n in range(5)] + ["  and 2 more"]
    assert json.loads(json.dumps(rows(study)))[0]["params"] == {"a": 3}


def test_several_objectives_have_a_front() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for a in (1, 2):
        study.enqueue_trial({"a": a})
    study.optimize(lambda trial: (trial.suggest_int("a", 1, 2), trial.params["a"]), n_trials=2)
    text = best(study)
    assert text.startswith("2 trials of which none is better in all objectives\nTrial 0: 1.0, 1.0\n  a = 1")
