"""`gap.nested_cv` on real Spark, against a plain loop with the same splits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from sklearn.model_selection import StratifiedKFold

import sparkgap as gap

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RNG = np.random.default_rng(2)
X = RNG.normal(size=(72, 4))
Y = (X[:, 0] * X[:, 1] + 0.4 * RNG.normal(size=72) > 0).astype(np.int64)
GRID = {"leaf": [1, 9], "depth": [1, 4]}


def accuracy(params: dict[str, Any], train: np.ndarray, test: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=params["depth"], min_samples_leaf=params["leaf"], random_state=0)
    return float(tree.fit(x[train], y[train]).score(x[test], y[test]))


def objective(trial: Any, train: np.ndarray, test: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return accuracy(trial.params, train, test, x, y)


def test_a_grid_gives_what_a_plain_loop_gives(spark: SparkSession) -> None:
    found = gap.nested_cv(objective, {"x": X, "y": Y}, folds=3, inner=2, grid=GRID, direction="maximize", stratify="y", seed=4)
    combinations = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    for fold, (train, test) in zip(found.folds, StratifiedKFold(3, shuffle=True, random_state=4).split(X, Y), strict=True):
        inner = list(StratifiedKFold(2, shuffle=True, random_state=4).split(train, Y[train]))
        means = {
            tuple(params.values()): np.mean([accuracy(params, train[a], train[b], X, Y) for a, b in inner])
            for params in combinations
        }
        assert {(t.params["leaf"], t.params["depth"]): t.value for t in fold.study.trials} == pytest.approx(means)
        assert fold.inner_score == pytest.approx(max(means.values()))
        assert means[fold.params["leaf"], fold.params["depth"]] == pytest.approx(max(means.values()))
        assert fold.score == pytest.approx(accuracy(dict(fold.params), train, test, X, Y))
        assert (fold.train_rows, fold.test_rows) == (len(train), len(test))
    assert found.mean == pytest.approx(np.mean([fold.score for fold in found.folds]))
    assert found.to_arrow().num_rows == 3


def test_samplers_pruners_and_failures(spark: SparkSession) -> None:
    def guess(trial: Any, train: np.ndarray, test: np.ndarray, y: np.ndarray) -> float:
        value = trial.suggest_float("guess", -5, 5)
        if trial.number == 0:
            raise ValueError("no such value")
        return 100.0 if trial.number == 1 else abs(value)

    found = gap.nested_cv(
        guess, {"y": Y}, folds=2, inner=2, trials=4, sampler=optuna.samplers.RandomSampler,
        pruner=optuna.pruners.ThresholdPruner(upper=50),
    )  # fmt: skip
    for fold in found.folds:
        assert [t.state.name for t in fold.study.trials] == ["FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
        assert fold.score == fold.inner_score == abs(fold.params["guess"])
    with pytest.raises(gap.TaskError, match="no such value"):
        gap.nested_cv(guess, {"y": Y}, folds=2, inner=2, trials=2, catch=False)
    with pytest.raises(gap.RunError, match=r"No trial of outer fold 0 has a value; there were 1.*no such value"):
        gap.nested_cv(guess, {"y": Y}, folds=2, inner=2, trials=1)
