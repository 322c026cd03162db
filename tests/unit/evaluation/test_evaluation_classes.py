"""Classifications against scikit-learn, split anywhere; what has no value says why; what cannot be is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap.evaluation.api import evaluate
from sparkgap.evaluation.planning import plan_of
from sparkgap.evaluation.results import result_of
from sparkgap.evaluation.states import merged_state, state_of

CLASSES = 4


def some(rows=400, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[label]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return label, probability, rng.random(rows) * 3


def table(label, probability, **more):
    return pa.table({"label": label, "probability": probability.tolist(), **more})


@pytest.mark.parametrize("weighted", [False, True])
def test_all_metrics_of_several_classes(weighted):
    label, probability, weights = some()
    w = weights if weighted else None
    found = evaluate(table(label, probability, w=weights), weight="w" if weighted else None, top_k=(1, 2))
    said = probability.argmax(1)
    assert found.task == "classification"
    assert (found.rows, dict(found.skipped), found.classes) == (400, {}, (0, 1, 2, 3))
    want = {
        "accuracy": oracle.accuracy_score(label, said, sample_weight=w),
        "balanced_accuracy": oracle.balanced_accuracy_score(label, said, sample_weight=w),
        "micro_f1": oracle.f1_score(label, said, average="micro", sample_weight=w),
        "mcc": oracle.matthews_corrcoef(label, said, sample_weight=w),
        "kappa": oracle.cohen_kappa_score(label, said, sample_weight=w),
        "top_1": oracle.accuracy_score(label, said, sample_weight=w),
        "top_2": oracle.top_k_accuracy_score(label, probability, k=2, sample_weight=w),
        "log_loss": oracle.log_loss(label, probability, sample_weight=w),
        "brier": np.average(((probability - np.eye(4)[label]) ** 2).sum(1), weights=w),
    }
    for how in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(oracle, f"{name}_score")
            want[f"{how}_{name}"] = score(label, said, average=how, sample_weight=w)
    areas = [oracle.roc_auc_score(label == k, probability[:, k], sample_weight=w) for k in range(4)]
    precisions = [oracle.average_precision_score(label == k, probability[:, k], sample_weight=w) for k in range(4)]
    want |= {"roc_auc": np.mean(areas), "pr_auc": np.mean(precisions)}
    assert {n: found[n] for n in want} == pytest.approx(want, rel=1e-12)
    assert set(found) == {*want, "ece"}
    assert found.per_class["roc_auc"] == pytest.approx(areas, rel=1e-12)
    assert found.per_class["pr_auc"] == pytest.approx(precisions, rel=1e-12)
    assert found.confusion == pytest.approx(oracle.confusion_matrix(label, said, sample_weight=w))
    assert found.per_class["support"] == pytest.approx(found.confusion.sum(1))
    assert found.errors == {"roc_auc": 0.0, "pr_auc": 0.0}
    assert found["ece"] == pytest.approx(_ece(probability.max(1), said == label, w))


def _ece(confidence, right, weights, bins=10):
    weights = np.ones(len(right)) if weights is None else weights
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(((confidence - right) * weights)[place == b].sum()) for b in range(bins)]
    return sum(gaps) / weights.sum()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("names", [(0, 1), ("no", "yes")])
def test_all_metrics_of_two_classes(vector, names):
    label, probability, _ = some(classes=2)
    score = probability[:, 1]
    given = probability.tolist() if vector else score
    options = {"positive": names[1], "classes": names if vector else None}
    found = evaluate(pa.table({"label": np.array(names)[label], "probability": given}), **options, task="binary")
    said = (score > 0.5).astype(int)
    want = {name: getattr(oracle, f"{name}_score")(label, said) for name in ("accuracy", "precision", "recall", "f1")}
    want |= {"roc_auc": oracle.roc_auc_score(label, score), "pr_auc": oracle.average_precision_score(label, score)}
    want |= {"log_loss": oracle.log_loss(label, score), "brier": oracle.brier_score_loss(label, score)}
    want |= {"mcc": oracle.matthews_corrcoef(label, said), "ece": _ece(score, label, None)}
    assert {n: found[n] for n in want} == pytest.approx(want, rel=1e-12)
    assert found.task == "binary"
    assert found.classes == names
    curve = found.roc[names[1]]
    fpr, tpr, thresholds = oracle.roc_curve(label, score, drop_intermediate=False)
    assert (curve.fpr, curve.tpr, curve.thresholds) == tuple(pytest.approx(a, rel=1e-12) for a in (fpr, tpr, thresholds))
    other = found.precision_recall[names[1]]
    precision, recall, thresholds = oracle.precision_recall_curve(label, score)
    assert other.precision[::-1] == pytest.approx(precision[:-1])
    assert other.recall[::-1] == pytest.approx(recall[:-1])
    assert other.thresholds[::-1] == pytest.approx(thresholds)
    true, predicted = oracle_calibration(label, score)
    there = found.calibration.weight > 0
    assert found.calibration.accuracy[there] == pytest.approx(true)
    assert found.calibration.confidence[there] == pytest.approx(predicted)


def oracle_calibration(label, score):
    from sklearn.calibration import calibration_curve

    return calibration_curve(label, score, n_bins=10)


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(0, 5))
def test_a_split_anywhere_gives_the_same(cuts, seed):
    label, probability, weights = some(60, 3, seed)
    rows = table(label, probability, w=weights)
    plan = plan_of(
        {f.name: f.type for f in rows.schema}, label="label", prediction=None, probability=None, task="auto", weight="w"
    )
    renamed = rows.select(list(plan.columns)).rename_columns([plan.place(c) for c in plan.columns]).combine_chunks()
    edges = [0, *sorted(cuts), 60]
    parts = [renamed.slice(a, b - a).to_batches() for a, b in itertools.pairwise(edges)]
    states = [merged_state(plan, [state_of(plan, b) for b in batches]) for batches in parts]
    split, whole = result_of(plan, merged_state(plan, states)), result_of(plan, merged_state(plan, states[::-1]))
    want = evaluate(rows, weight="w")
    for found in (split, whole):
        assert dict(found) == pytest.approx(dict(want), rel=1e-12)
        assert found.confusion == pytest.approx(want.confusion)
        assert found.rows == 60


def test_predictions_alone_may_be_text():
    rows = pa.table({"label": ["a", "b", "b", "c"], "prediction": ["a", "b", "d", "d"]})
    found = evaluate(rows)
    assert found.classes == ("a", "b", "c", "d")
    assert found.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert found["accuracy"] == 0.5
    assert found["balanced_accuracy"] == 0.5
    want = oracle.precision_score(rows["label"].to_pylist(), rows["prediction"].to_pylist(), average="macro", zero_division=0)
    assert found["macro_precision"] == want
    assert found.reasons == {"macro_precision": "1 classes were never predicted and count as 0"}
    assert "roc_auc" not in found
    with pytest.raises(KeyError, match="roc_auc; there are accuracy"):
        found["roc_auc"]
    assert found.table().column("class").to_pylist() == ["a", "b", "c", "d"]


def test_thresholded_predictions_beside_probabilities():
    rows = pd.DataFrame(
        {"label": [0.0, 1.0, 1.0], "prediction": [1.0, 1.0, 1.0], "probability": [[0.9, 0.1], [0.2, 0.8], [1, 0]]}
    )
    found = evaluate(rows)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["recall"] == 1.0
    assert found["log_loss"] == pytest.approx(oracle.log_loss(rows["label"], [0.1, 0.8, 0.0]))
    assert found.reasons["log_loss"] == "1 rows whose true class had less than 2.22e-16 count as that"


@pytest.mark.parametrize("kind", ["vector", "number", "prediction"])
def test_no_rows(kind):
    column = {"vector": pa.array([], pa.list_(pa.float32())), "number": pa.array([], pa.float64())}
    rows = pa.table({"label": pa.array([], pa.int64()), "p": column.get(kind, pa.array([], pa.int64()))})
    found = evaluate(rows, **{"prediction" if kind == "prediction" else "probability": "p"})
    assert found.rows == 0
    assert np.isnan(list(found.values())).all() or kind == "number"
    assert np.isnan(found["accuracy"])
    assert found.reasons["accuracy"] == "there are no rows"
    assert "nan  (there are no rows)" in repr(found)


def test_one_class_has_no_area():
    found = evaluate(pa.table({"label": [1, 1], "probability": [0.5, 0.75]}))
    assert np.isnan(found["roc_auc"])
    assert found.reasons["roc_auc"] == "class 1: every row is of this class"
    assert np.isnan(found["mcc"])
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.75]).mean())
    three = evaluate(table([0, 1, 0], np.array([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.7, 0.2, 0.1]])))
    assert np.isnan(three["roc_auc"])
    assert three.reasons["roc_auc"] == "class 2: no row is of this class"
    assert three.per_class["roc_auc"].tolist()[:2] == [1.0, 1.0]


def test_rows_left_out_are_counted_by_reason():
    rows = pa.table(
        {
            "label": pa.array([0, 1, None, 1, 0, 1], pa.int32()),
            "probability": [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], None, [float("nan"), 0.1], [0.5, None]],
            "w": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        }
    )
    found = evaluate(rows, weight="w")
    assert found.rows == 2
    assert found.skipped == {"`label` is null": 1, "`probability` is null": 1, "`probability` is or has NaN": 2}
    assert found["accuracy"] == 1.0
    with pytest.raises(DataError, match="In 1 of 6 rows `label` is null"):
        evaluate(rows, nulls="raise")
    infinite = evaluate(pa.table({"label": [1.0, 2.0], "prediction": [float("inf"), 2.0]}))
    assert infinite.skipped == {"`prediction` is or has an infinity": 1}


@pytest.mark.parametrize(
    ("label", "probability", "options", "message"),
    [
        ([0, 7], [[0.5, 0.5]] * 2, {}, "Column `label` has 7, which is no class.* classes 0 to 1"),
        (["a", "z"], [[0.5, 0.5]] * 2, {"classes": ["a", "b"]}, "Column `label` has 'z', which is no class.*'a', 'b'"),
        ([0, 1, 2], [0.5] * 3, {}, "one class beside the positive one, 1; `label` has 0 and 2"),
        ([0.5, 1.0], [0.5] * 2, {}, "whole numbers or text; column `label` has 0.5"),
        ([0, 1], [-0.5, 1.0], {}, "from 0 to 1; column `probability` has -0.5.*softmax"),
        ([0, 1], [[0.5, 0.2]] * 2, {}, "add up to 1; those of `probability` to 0.7"),
        ([0, 1], [[0.5, 0.5], [1.0]], {}, "different numbers of probabilities"),
        ([0, 1], [[0.5, 0.5]] * 2, {"classes": [0, 1, 2]}, "2 probabilities a row, but classes= names 3"),
        ([0, 1], [[0.5, 0.5]] * 2, {"positive": 5}, "positive=5 is none of the two classes"),
        ([0, 1], [0.5, 0.5], {"weight": "w"}, "Weights are not negative; column `w` has -1.0"),
    ],
)
def test_what_cannot_be_is_named(label, probability, options, message):
    rows = pa.table({"label": label, "probability": probability, "w": [-1.0] * len(label)})
    with pytest.raises(DataError, match=message):
        evaluate(rows, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "guess"}, ConfigurationError, "task is one of auto"),
        ({"label": "nope", "prediction": "x"}, SignatureError, "`nope` is not there. The table has label"),
        ({"prediction": "x"}, ConfigurationError, "Say task='classification' or task='regression'"),
        ({"prediction": "text"}, SignatureError, "`label` is int64 and `text` is string"),
        ({"probability": "text"}, SignatureError, "A probability is a number.*`text` is string"),
        ({"label": "text", "probability": "p"}, ConfigurationError, "classes=\\['cat'"),
        ({"label": "text", "probability": "x"}, ConfigurationError, "positive='yes'"),
        ({"probability": "p", "classes": ["a", "b"]}, ConfigurationError, "classes= wants different names"),
        ({"probability": "x", "positive": "a"}, ConfigurationError, "not of the kind of `label`"),
        ({"prediction": "label", "by": "p"}, SignatureError, "Column `p` of type list.*cannot be a key"),
        ({"prediction": "label", "top_k": (0,)}, ConfigurationError, "top_k is a whole number"),
        ({"prediction": "x", "task": "regression", "quantiles": [2]}, ConfigurationError, "quantiles are shares"),
        ({"task": "regression"}, ConfigurationError, "nothing to compare `label` with"),
    ],
)
def test_calls_that_are_refused(options, error, message):
    rows = pa.table({"label": [0, 1], "x": [0.5, 1.0], "text": ["a", "b"], "p": [[0.5, 0.5]] * 2})
    with pytest.raises(error, match=message):
        evaluate(rows, **options)


def test_metrics_by_key_with_null_and_nan_keys():
    keys = pa.array([1.0, 1.0, None, float("nan"), 2.0, 2.0])
    arrow = pa.table({"key": keys, "label": [0, 1, 1, 1, 0, 1], "prediction": [0, 0, 1, 0, 0, 1]})
    found = evaluate(arrow, by="key")
    assert found["accuracy"] == pytest.approx(4 / 6)
    by = found.table()
    got = {
        "nan" if k != k else k: (n, a)
        for k, n, a in zip(*(by[c].to_pylist() for c in ("key", "rows", "accuracy")), strict=True)
    }
    assert got == {1.0: (2, 0.5), None: (1, 1.0), "nan": (1, 0.0), 2.0: (2, 1.0)}
    assert evaluate(arrow.slice(0, 0), by="key").table().num_rows == 0
    several = pa.concat_tables([arrow] * 3)  # keys that lie in several stretches of rows
    assert sorted(evaluate(several, by="key").table()["rows"].to_pylist()) == [3, 3, 6, 6]
    two = evaluate(arrow, by=["key", "label"]).table()
    assert two.num_rows == 6
    assert sum(two["rows"].to_pylist()) == 6


def test_too_many_classes_are_none():
    rows = pa.table({"label": range(5000), "prediction": range(5000)})
    halves = pa.concat_tables([rows.slice(0, 2500), rows.slice(2500)])
    with pytest.raises(DataError, match=r"more than 4096 different values.*task='regression'"):
        evaluate(halves)
    assert evaluate(halves, task="regression")["mae"] == 0.0


def test_keys_meet_again_when_their_rows_lay_in_several_stretches(monkeypatch):
    monkeypatch.setattr("sparkgap.evaluation.task.MOST_ROWS", 50)
    monkeypatch.setattr("sparkgap.evaluation.task._ROWS_OUT", 3)
    monkeypatch.setattr("sparkgap.evaluation.api._ROWS", 20)
    label, probability, _ = some()
    rows = table(label, probability, key=np.arange(400) % 7)
    by = evaluate(rows, by="key").table().sort_by("key")
    for key in range(7):
        want = evaluate(rows.filter(pa.array(np.arange(400) % 7 == key)))
        assert by["rows"][key].as_py() == want.rows
        assert by["log_loss"][key].as_py() == pytest.approx(want["log_loss"], rel=1e-12)
        assert by["roc_auc"][key].as_py() == pytest.approx(want["roc_auc"], rel=1e-12)


def test_ties_go_to_the_first_class_and_absent_classes_do_not_count():
    tied = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    assert evaluate(table([1, 1], tied), top_k=(1,))["top_1"] == 0.0
    rows = table([0, 1], tied)
    found = evaluate(rows, top_k=(1, 2))
    assert [found["top_1"], found["top_2"], found["accuracy"]] == [0.5, 1.0, 0.5]
    assert found["macro_recall"] == oracle.recall_score([0, 1], [0, 0], average="macro") == 0.5
