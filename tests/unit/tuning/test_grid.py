"""Grids in all forms, as trials."""

from __future__ import annotations

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pytest
from optuna.trial import TrialState

from sparkgap._errors import ConfigurationError
from sparkgap.tuning import grid as grids
from sparkgap.tuning.api import search

ROWS = [{"lr": 0.1, "width": 8}, {"lr": 0.1, "width": 16}, {"lr": 0.2, "width": 8}, {"lr": 0.2, "width": 16}]


class Frame:
    """A Spark DataFrame, as far as a grid looks at it."""

    columns = ("lr", "width")

    def toArrow(self):
        return pa.Table.from_pylist(ROWS)


FORMS = {
    "dict": {"lr": [0.1, 0.2], "width": np.array([8, 16])},
    "list": ROWS,
    "arrow": pa.Table.from_pylist(ROWS),
    "pandas": pd.DataFrame(ROWS),
    "spark": Frame(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    assert grids.rows_of(FORMS[form]) == ROWS


def suggests(trial):
    return trial.suggest_float("lr", 0, 1, log=False) * trial.suggest_int("width", 1, 64)


def reads(trial):
    return trial.params["lr"] * trial.params["width"]


@pytest.mark.parametrize("objective", [suggests, reads])
def test_each_row_is_tried_once(objective):
    study = search(objective, grid=FORMS["pandas"], parallel=3)
    assert [t.params for t in study.trials] == ROWS
    assert [t.value for t in study.trials] == [r["lr"] * r["width"] for r in ROWS]


def test_rows_that_are_equal_are_all_tried():
    assert len(search(suggests, grid=[ROWS[0]] * 3).trials) == 3


def test_a_grid_goes_on_where_it_was(tmp_path):
    storage = f"sqlite:///{tmp_path / 'a.db'}"

    def stop(study, trial):
        if trial.number == 1:
            study.stop()

    assert len(search(suggests, grid=ROWS, storage=storage, parallel=1, callbacks=[stop]).trials) == 4
    study = search(suggests, grid=[*ROWS, {"lr": 0.9, "width": 1}], storage=storage, parallel=1)
    assert [t.params for t in study.trials] == [*ROWS, {"lr": 0.9, "width": 1}]
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_rows_whose_driver_was_ended_are_tried_again():
    study = optuna.create_study()

    def end(study, trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(suggests, grid=ROWS, study=study, parallel=2, callbacks=[end])
    search(suggests, grid=ROWS, study=study)
    complete = [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert sorted(map(str, complete)) == sorted(map(str, ROWS))


def test_a_trial_that_a_killed_driver_was_about_to_begin_is_no_row():
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
    search(suggests, grid=ROWS, study=study, parallel=2)
    assert [t.state.name for t in study.trials] == ["FAIL"] + ["COMPLETE"] * 4


def test_a_row_that_another_driver_has_taken_is_left_to_it():
    study = optuna.create_study()

    def taken(study, trial):
        if trial.number == 1:
            study.ask(), study.ask()

    search(suggests, grid=ROWS, study=study, parallel=1, callbacks=[taken])
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING", "FAIL"]
    assert study.trials[4].user_attrs["kind"] == "cancelled"


def test_rows_beyond_those_that_are_there_are_added():
    study = search(suggests, grid=[ROWS[0]])
    assert len(search(suggests, grid=[ROWS[0]] * 3, study=study).trials) == 3


def test_an_empty_cell_is_the_samplers():
    table = pa.table({"lr": [0.1, None], "width": [8, 16]})
    study = search(suggests, grid=table, sampler=optuna.samplers.RandomSampler())
    assert study.trials[0].params["lr"] == 0.1
    assert study.trials[1].params["width"] == 16


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([], "no rows"), ({"x": []}, "no rows"), (3, "is a int"), ({"x": "abc"}, r"\['abc'\]"), ({"x": 3}, r"\[3\]"),
        ({"x": [object]}, "'x' is a type"), (["x"], "is a list"),
    ],
)  # fmt: skip
def test_bad_grids(grid, said):
    with pytest.raises(ConfigurationError, match=said):
        search(suggests, grid=grid)
