"""Regressions against scikit-learn and NumPy, scores of rows, pictures."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from sparkgap._errors import ConfigurationError, MissingDependencyError
from sparkgap.evaluation.api import evaluate
from sparkgap.evaluation.example_scores import per_example
from sparkgap.evaluation.planning import plan_of
from sparkgap.evaluation.results import result_of
from sparkgap.evaluation.states import merged_state, state_of


def some(rows=501, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.normal(5, 3, rows)
    return pd.DataFrame({"label": label, "prediction": label + rng.normal(0.5, 1, rows), "w": rng.random(rows)})


@pytest.mark.parametrize("weight", [None, "w"])
def test_all_metrics(weight):
    rows = some()
    label, said, w = rows["label"], rows["prediction"], None if weight is None else rows["w"]
    found = evaluate(rows, weight=weight)
    want = {
        "mae": oracle.mean_absolute_error(label, said, sample_weight=w),
        "mse": oracle.mean_squared_error(label, said, sample_weight=w),
        "rmse": oracle.root_mean_squared_error(label, said, sample_weight=w),
        "r2": oracle.r2_score(label, said, sample_weight=w),
        "explained_variance": oracle.explained_variance_score(label, said, sample_weight=w),
        "mape": oracle.mean_absolute_percentage_error(label, said, sample_weight=w),
        "max_error": oracle.max_error(label, said),
        "median_absolute_error": float(np.quantile(np.abs(said - label), 0.5, weights=w, method="inverted_cdf")),
        "bias": np.average(said - label, weights=w),
    }
    assert dict(found) == pytest.approx(want, rel=1e-12)
    method = "linear" if weight is None else "inverted_cdf"
    quantiles = np.quantile(said - label, list(found.quantiles), weights=w, method=method)
    assert list(found.quantiles.values()) == pytest.approx(quantiles.tolist(), rel=1e-12)
    assert found.errors == {"median_absolute_error": 0.0, "quantiles": 0.0}


def test_quantiles_of_many_errors_are_within_their_bound():
    rows = some(200_000)
    found = evaluate(rows)
    error = (rows["prediction"] - rows["label"]).to_numpy()
    assert 0 < found.errors["quantiles"] < 0.002
    for q, value in found.quantiles.items():
        assert abs(value - np.quantile(error, q)) <= found.errors["quantiles"]
    off = abs(found["median_absolute_error"] - np.median(np.abs(error)))
    assert off <= found.errors["median_absolute_error"]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=40), st.integers(0, 40))
def test_a_split_anywhere_gives_the_same(rows, cut):
    batch = pa.RecordBatch.from_arrays([pa.array(c) for c in zip(*rows, strict=True)], names=["c0", "c1"])
    types = {"y": pa.float64(), "p": pa.float64()}
    plan = plan_of(types, label="y", prediction="p", probability=None, task="auto")
    found = result_of(plan, merged_state(plan, [state_of(plan, batch.slice(0, cut)), state_of(plan, batch.slice(cut))]))
    whole = result_of(plan, state_of(plan, batch))
    assert dict(found) == pytest.approx(dict(whole), rel=1e-6, abs=1e-9, nan_ok=True)
    assert dict(found.quantiles) == dict(whole.quantiles)
    error = batch.column(1).to_numpy() - batch.column(0).to_numpy()
    assert list(found.quantiles.values()) == pytest.approx(np.quantile(error, list(found.quantiles)).tolist(), abs=1e-9)


def test_zeros_equal_labels_and_no_rows_are_named():
    found = evaluate(pa.table({"label": [0.0, 2.0, 0.0], "prediction": [1.0, 1.0, 0.0]}))
    assert found["mape"] == 0.5
    assert found.reasons == {"mape": "without 2 rows whose label is 0"}
    rows = pa.table({"label": [1.0, 0.0], "prediction": [1.0, 1.0]})
    apart = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])  # two batches, zeros in the second
    assert evaluate(apart).reasons == {"mape": "without 1 rows whose label is 0"}
    equal = evaluate(pa.table({"label": [2, 2], "prediction": [1.0, 3.0]}), task="regression")
    assert np.isnan(equal["r2"])
    assert equal.reasons["r2"] == "all labels are equal"
    assert equal["bias"] == 0.0
    none = evaluate(pa.table({"label": pa.array([], pa.float64()), "prediction": pa.array([], pa.float32())}))
    assert np.isnan([*none.values(), *none.quantiles.values()]).all()
    with pytest.raises(ConfigurationError, match="has neither"):
        none.table()


def test_large_labels_lose_nothing():
    label = 1e9 + np.arange(4.0)
    found = evaluate(pa.table({"label": label, "prediction": label + np.array([0.0, 1.0, 0.0, 1.0])}))
    assert found["r2"] == pytest.approx(1 - 2 / 5, rel=1e-12)
    assert found["explained_variance"] == pytest.approx(1 - 1 / 5, rel=1e-12)


def test_plain_values_and_text():
    found = evaluate(some())
    assert json.loads(json.dumps(found.to_dict()))["metrics"]["mae"] == found["mae"]
    assert repr(found).splitlines()[0] == "Evaluation: regression, 501 rows"
    assert "error at 0.05" in repr(found)


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table, pl.DataFrame], ids=["pandas", "arrow", "polars"])
def test_scores_of_rows(make):
    rows = make({"label": [0, 1, None, 2], "probability": [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [1.0, 0, 0], [0.4, 0.4, 0.2]]})
    found = per_example(rows, prefix="is_")
    assert type(found) is type(rows)
    columns = pa.table(found) if make is not pd.DataFrame else pa.Table.from_pandas(found)
    assert columns["is_correct"].to_pylist() == [True, False, None, False]
    assert [r and int(r) for r in columns["is_rank"].to_pylist()] == [1, 2, None, 3]
    loss = columns["is_loss"].to_pylist()
    assert [loss[i] for i in (0, 1, 3)] == pytest.approx(-np.log([0.7, 0.4, 0.2]))
    assert [columns["is_confidence"].to_pylist()[i] for i in (0, 1, 3)] == [0.7, 0.5, 0.4]
    with pytest.raises(ConfigurationError, match="has is_loss, .* already"):
        per_example(found, probability="probability", prefix="is_")


def test_scores_of_rows_of_a_regression():
    found = per_example(pa.table({"label": [1.0, 2.0], "prediction": [3.0, float("nan")]}))
    assert found["error"].to_pylist() == [2.0, None]
    assert found["squared_error"].to_pylist() == [4.0, None]


def test_without_matplotlib_a_picture_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib.*sparkgap\[plot\]"):
        evaluate(some()).plot(tmp_path / "picture.png")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_picture_on_paths_and_axes(tmp_path):
    from matplotlib.figure import Figure

    rows = pa.table({"label": [0, 1, 1, 0], "probability": [0.25, 0.75, 0.5, 0.5]})
    found = evaluate(rows)
    figure = found.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert [a.get_title().partition(":")[0] for a in figure.axes] == ["Confusion", "ROC", "Calibration"]
    axis = Figure().add_subplot()
    assert found.plot(axis) is axis.figure
    assert axis.get_title().startswith("Confusion")
    assert evaluate(some()).plot(tmp_path / "errors.svg").axes[0].get_title().startswith("Error: MAE")
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        evaluate(rows.slice(0, 0)).plot(tmp_path / "nothing.png")
