"""Evaluations on Spark: predictions on real digits against scikit-learn, by key, without rows, refused, row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as oracle

import sparkgap as gap
from sparkgap.evaluation.api import evaluate
from sparkgap.evaluation.example_scores import per_example

pytestmark = pytest.mark.one_host


@pytest.fixture(scope="module")
def digits():
    """Labels, probabilities of a real model, and the half of the page that each is from."""
    from sklearn.datasets import load_digits
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import cross_val_predict

    pixels, label = load_digits(return_X_y=True)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.9)
    probability = cross_val_predict(model, pixels, label, cv=2, method="predict_proba")
    part = np.where(np.arange(len(label)) % 10 < 8, "most", "few")
    return pa.table({"id": range(len(label)), "label": label, "probability": probability.tolist(), "part": part})


@pytest.fixture(scope="module")
def df(spark, digits):
    frame = spark.createDataFrame(digits).repartition(5).persist()
    yield frame
    frame.unpersist()


def test_digits_as_scikit_learn_has_them(df, digits):
    from pyspark.ml.functions import array_to_vector

    label, probability = digits["label"].to_numpy(), np.array(digits["probability"].to_pylist())
    said = probability.argmax(1)
    want = {
        "accuracy": oracle.accuracy_score(label, said),
        "macro_f1": oracle.f1_score(label, said, average="macro"),
        "mcc": oracle.matthews_corrcoef(label, said),
        "top_3": oracle.top_k_accuracy_score(label, probability, k=3),
        "log_loss": oracle.log_loss(label, probability),
        "roc_auc": oracle.roc_auc_score(label, probability, multi_class="ovr"),
    }
    assert 0.8 < want["accuracy"] < 1
    vectors = df.withColumn("probability", array_to_vector("probability"))
    for frame in (df, vectors.withColumnRenamed("probability", "a.b")):
        found = evaluate(frame, probability=frame.columns[2], top_k=(3,))
        assert {n: found[n] for n in want} == pytest.approx(want, rel=1e-12)
        assert found.confusion.tolist() == oracle.confusion_matrix(label, said).tolist()
        assert found.rows == len(label)
        assert found.auc_error == 0.0


def test_by_key(df, digits):
    found = evaluate(
        df.selectExpr("label", "probability", "if(id = 7, NULL, part) AS part", "id % 20 AS key"), by=["part", "key"]
    )
    assert dict(found) == pytest.approx(dict(evaluate(digits)), rel=1e-12)
    keys = pa.array(np.where(np.arange(digits.num_rows) == 7, None, digits["part"].to_pylist()))
    here = digits.set_column(3, "part", keys).append_column("key", pa.array(np.arange(digits.num_rows) % 20))
    order = [("part", "ascending"), ("key", "ascending")]
    got, want = (e.table().sort_by(order) for e in (found, evaluate(here, by=["part", "key"])))
    assert got.column_names == want.column_names
    assert {"part", "key", "rows", "skipped", "accuracy", "log_loss"} <= set(got.column_names)
    assert got.select(["part", "key", "rows"]).to_pylist() == want.select(["part", "key", "rows"]).to_pylist()
    for name in ("accuracy", "log_loss", "brier"):
        assert got[name].to_pylist() == pytest.approx(want[name].to_pylist(), rel=1e-12)


def test_areas_of_many_scores_do_not_depend_on_partitions(spark):
    frame = spark.range(0, 120_000, 1, 3).selectExpr(
        "pmod(hash(id), 1000003) / 1000003 AS probability", "int(pmod(hash(id, 1), 1000) / 1000 < probability) AS label"
    )
    rows = frame.toArrow()
    one, other = evaluate(frame), evaluate(frame.repartition(7))
    assert one["roc_auc"] == other["roc_auc"] == evaluate(rows)["roc_auc"]
    exact = oracle.roc_auc_score(rows["label"], rows["probability"])
    assert 0 < one.auc_error < 1e-3
    assert abs(one["roc_auc"] - exact) <= one.auc_error


@pytest.mark.parametrize("by", [None, "key"])
def test_no_rows(spark, by):
    frame = spark.range(0).selectExpr("id AS label", "id AS prediction", "'a' AS key")
    found = evaluate(frame, by=by)
    assert found.rows == 0
    assert found.reasons["accuracy"] == "there are no rows"
    if by:
        assert found.table().num_rows == 0


@pytest.mark.parametrize("by", [None, "part"])
def test_rows_that_are_refused_are_errors_of_the_call(df, by):
    with pytest.raises(gap.DataError, match=r"Column `label` has 12, which is no class.*0 to 9"):
        evaluate(df.selectExpr("if(id = 5, 12, label) AS label", "probability", "part"), by=by)


def test_scores_of_rows(df, digits):
    from pyspark.ml.functions import array_to_vector

    frame = df.selectExpr("id", "if(id = 3, NULL, label) AS label", "probability AS `p.q`")
    want = per_example(digits).select(["loss", "correct", "rank", "confidence"]).to_pylist()
    want[3] = dict.fromkeys(want[3])
    for given in (frame, frame.withColumn("p.q", array_to_vector("`p.q`"))):
        scored = per_example(given, probability="p.q")
        assert scored.columns == ["id", "label", "p.q", "loss", "correct", "confidence", "rank"]
        assert (
            scored.select("id", "loss", "correct", "rank", "confidence").toArrow().sort_by("id").drop("id").to_pylist() == want
        )
    worst = scored.orderBy(scored.loss.desc()).first()
    assert worst.loss == max(w["loss"] or 0 for w in want)


def test_a_regression(spark):
    frame = spark.range(0, 1000, 1, 3).selectExpr("double(id) AS label", "id + sin(id) AS prediction", "id % 3 AS key")
    found = evaluate(frame, by="key")
    rows = frame.toArrow()
    here = evaluate(rows, by="key")
    assert dict(found) == pytest.approx(dict(here), rel=1e-9)
    assert found.quantiles == pytest.approx(here.quantiles)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(rows["label"], rows["prediction"]))
    assert found.table().sort_by("key")["rows"].to_pylist() == [334, 333, 333]
