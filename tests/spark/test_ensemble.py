"""`gap.ensemble` on real Spark: members trained as tasks, and one model of them in `gap.transform`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 3))
Y = (X @ [1.0, -2.0, 0.5] > 0).astype(np.int64)


def fit(seed: int, x: np.ndarray, y: np.ndarray) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    rows = np.random.default_rng(seed).integers(0, len(x), len(x))
    return RandomForestClassifier(3, max_depth=3, random_state=seed).fit(x[rows], y[rows])


def network(seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.sort_by("id")[name].to_pylist())


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> Any:
    table = pa.table({"id": np.arange(60), "x": pa.array(list(X), pa.list_(pa.float64()))})
    return spark.createDataFrame(table).repartition(3)


def test_sklearn_probabilities_are_the_mean_of_the_members(spark: SparkSession, rows: Any) -> None:
    model = gap.ensemble(fit, 3, seed=7, data={"x": X, "y": Y}, load={"method": "predict_proba"})
    got = gap.transform(rows, model).toArrow()
    members = [fit(seed, X, Y) for seed in (7, 8, 9)]
    expected = np.mean([member.predict_proba(X) for member in members], axis=0)
    np.testing.assert_allclose(column(got, "probability"), expected, rtol=1e-12)
    assert not np.allclose(expected, members[0].predict_proba(X))


def test_a_vote_of_labels_in_a_udf(spark: SparkSession, rows: Any) -> None:
    model = gap.ensemble(fit, 3, average="vote", data={"x": X, "y": Y})
    members = np.array([fit(seed, X, Y).predict(X) for seed in range(3)])
    assert (members.std(axis=0) > 0).any()
    model = model.with_signature(
        gap.Signature(
            (gap.TensorSpec("x", "float64", (3,)),), (gap.TensorSpec("prediction", "int64", ()),)
        )
    )  # fmt: skip
    got = rows.withColumn("label", gap.udf(model)("x")).toArrow()
    np.testing.assert_array_equal(column(got, "label"), (members.sum(axis=0) > 1).astype(int))


def test_torch_members_have_the_mean_of_their_outputs(spark: SparkSession, rows: Any) -> None:
    import torch

    model = gap.ensemble(network, 2, seed=3, load={"signature": gap.Signature((gap.TensorSpec("input", "float32", (3,)),))})
    got = gap.transform(rows, model, inputs={"input": "x"}).toArrow()
    with torch.no_grad():
        expected = np.mean([network(seed)(torch.tensor(X, dtype=torch.float32)).numpy() for seed in (3, 4)], axis=0)
    np.testing.assert_allclose(column(got, "output"), expected, rtol=1e-4, atol=1e-6)


def unsteady(seed: int) -> Any:
    if seed % 2:
        raise OSError("the network")
    return lambda x: {"y": x + float(seed)}


def test_members_that_fail(spark: SparkSession) -> None:
    with pytest.raises(gap.TaskError, match="the network"):
        gap.ensemble(unsteady, 4)
    with pytest.warns(RuntimeWarning, match=r"2 of 4 members failed \(2 exception\); the ensemble is of the other 2") as seen:
        model = gap.ensemble(unsteady, 4, on_error="collect")
    assert [w.filename for w in seen if w.category is RuntimeWarning] == [__file__]
    assert model.predict({"x": [1.0]})["y"].tolist() == [2.0]
    with pytest.raises(gap.RunError, match="None of the 1 members"):
        gap.ensemble(unsteady, 1, seed=1, on_error="collect")


def test_members_go_on_from_a_journal(spark: SparkSession, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gap.ensemble(unsteady, 2, on_error="collect", journal=tmp_path / "j", name="first")
    assert gap.ensemble(unsteady, 1, journal=tmp_path / "j").predict({"x": [1.0]})["y"].tolist() == [1.0]
    with pytest.raises(gap.ConfigurationError, match=r"unsteady"):
        gap.ensemble(network, 2, journal=tmp_path / "j")


def test_what_is_no_ensemble(spark: SparkSession) -> None:
    with pytest.raises(gap.TaskError, match="No adapter recognises"):
        gap.ensemble(lambda seed: 3, 1)
    with pytest.raises(gap.SignatureError, match="Member 0 has the inputs x and member 1 z"):
        gap.ensemble(lambda seed: (lambda x: x) if seed == 0 else (lambda z: z), 2)
    with pytest.raises(gap.SignatureError, match=r"classes \[0, 1\] and member 1 with \[0, 2\]"):
        gap.ensemble(
            lambda seed, x, y: fit(0, x, y * (seed + 1)), 2, data={"x": X, "y": Y}, load={"method": "predict_proba"}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"), [({"k": 0}, "k=0"), ({"average": "max"}, "average='max'"), ({"fn": 3}, "function")]
)
def test_wrong_calls(spark: SparkSession, call: dict[str, Any], words: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=words):
        gap.ensemble(**{"fn": unsteady, "k": 2, **call})
