"""Training a perceptron on shards, without Spark: losses, ranks, mini-batches, rows that are held out, wrong rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from mlp_tables import XOR, table

from sparkgap._errors import DataError
from sparkgap.ml.mlp_engine import trained
from sparkgap.ml.mlp_loss import Loss
from sparkgap.ml.mlp_net import Classify, Net, Regress, first_weights
from sparkgap.ml.mlp_peers import Peers
from sparkgap.ml.mlp_rows import Rows, check_labels
from sparkgap.ml.mlp_setting import MINI, Setting

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # as in tasks; ranks are threads here, which would wait for each other's
BASE = Setting("classification", (2, 5, 2), seed=123)


def blobs(rows=300, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, rows)
    return draw.normal(size=(rows, 4)) + 2.0 * np.eye(4)[labels], labels.astype(float)


def accuracy(setting, found, features, labels):
    net = Net(setting.layers, found.weights, setting.activation)
    return float((Classify(net, None)(features)["prediction"] == labels).mean())


class InThreads(Peers):
    """Ranks that are threads of this process."""

    def __init__(self, rank, world, shared):
        self.rank, self.world, self._shared = rank, world, shared

    def _meet(self, array):
        with self._shared["lock"]:
            self._shared[self.rank] = array.copy()
        self._shared["barrier"].wait(60)
        found = [self._shared[rank] for rank in range(self.world)]
        self._shared["barrier"].wait(60)
        return found

    def tell(self, array):
        self._meet(array)

    def hear(self, size):
        return self._meet(np.empty(size))[0].copy()

    def add(self, array):
        return np.sum(self._meet(array), axis=0).astype(array.dtype)


def by_ranks(setting, shards, world):
    shared = {"lock": threading.Lock(), "barrier": threading.Barrier(world)}
    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(lambda rank: trained(setting, shards, InThreads(rank, world, shared)), range(world)))
    assert found[1:] == [None] * (world - 1)
    return found[0]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_the_gradient_is_that_of_the_loss(task, activation):
    layers = (4, 6, 5, 3 if task == "classification" else 1)
    features, labels = blobs(20)
    loss = Loss(Setting(task, layers, activation))
    rows = [loss.targets(Rows(features[:13], labels[:13])), loss.targets(Rows(features[13:], labels[13:]))]
    weights = first_weights(layers, 3)
    *gradient, _, count = loss.sums(weights, rows, slope=True)
    assert count == 20
    for at in range(0, len(weights), 7):
        nudge = np.zeros(len(weights))
        nudge[at] = 1e-6
        above, below = (loss.sums(weights + sign * nudge, rows, slope=False)[0] for sign in (1, -1))
        assert gradient[at] == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-6)


def test_the_loss_is_that_of_numpy():
    features, labels = blobs(20)
    layers = (4, 6, 3)
    weights = first_weights(layers, 3)
    probability = Classify(Net(layers, weights), None)(features)["probability"]
    loss = Loss(Setting("classification", layers))
    found = loss.sums(weights, [loss.targets(Rows(features, labels))], slope=False)
    np.testing.assert_allclose(found, [-np.log(probability[np.arange(20), labels.astype(int)]).sum(), 20])
    numbers = Loss(Setting("regression", (4, 6, 1)))
    weights = first_weights((4, 6, 1), 3)
    error = Regress(Net((4, 6, 1), weights))(features)["prediction"] - labels
    np.testing.assert_allclose(
        numbers.sums(weights, [numbers.targets(Rows(features, labels))], slope=False), [0.5 * (error**2).sum(), 20]
    )


@pytest.mark.parametrize("seed", [1, 12, 123])
def test_exclusive_or_is_learnt_exactly(tmp_path, seed):
    found = trained(replace(BASE, seed=seed), table(tmp_path, *XOR))
    assert accuracy(BASE, found, *XOR) == 1
    assert len(found.history) == found.iterations + 1
    assert list(found.history) == sorted(found.history, reverse=True)


@pytest.mark.parametrize("solver", ["l-bfgs", "gd", "adam", "adamw", "sgd"])
def test_all_solvers_learn_three_classes(tmp_path, solver):
    features, labels = blobs()
    step = {"gd": 1.0, "sgd": 0.1}.get(solver, 0.05)
    setting = Setting(
        "classification", (4, 8, 3), "tanh", solver, step_size=step, batch=32, seed=5, max_iter=40 if solver in MINI else 100
    )
    found = trained(setting, table(tmp_path, features, labels))
    assert accuracy(setting, found, features, labels) > 0.85
    assert found.history[-1] < 0.5 * found.history[0]


def test_a_batch_of_all_rows_is_a_step_down_the_gradient(tmp_path):
    shards = table(tmp_path, *blobs())
    setting = Setting("classification", (4, 6, 3), solver="gd", step_size=0.5, weight_decay=0.3, batch=300, max_iter=1)
    whole, batch = trained(setting, shards), trained(replace(setting, solver="sgd"), shards)
    np.testing.assert_allclose(batch.weights, whole.weights, atol=1e-6)


@pytest.mark.parametrize("solver", ["l-bfgs", "adam"])
def test_numbers_are_learnt(tmp_path, solver):
    features, _ = blobs()
    wanted = features @ [1.0, -2.0, 0.5, 0.0] + 3
    setting = Setting("regression", (4, 8, 1), "relu", solver, step_size=0.02, batch=32, max_iter=200, patience=0)
    net = Net(setting.layers, trained(setting, table(tmp_path, features, wanted)).weights, "relu")
    assert np.mean((Regress(net)(features)["prediction"] - wanted) ** 2) < 0.02 * wanted.var()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("solver", ["l-bfgs", "gd", "adam", "sgd"])
def test_ranks_together_take_the_steps_of_one(tmp_path, solver, world):
    shards = table(tmp_path, *blobs(), held=np.random.default_rng(1).random(300))
    setting = Setting(
        "classification", (4, 6, 3), solver=solver, max_iter=15, step_size=0.05, batch=50, weight_decay=1e-3, held_below=0.2
    )
    one, many = trained(setting, shards), by_ranks(setting, shards, world)
    np.testing.assert_allclose(many.weights, one.weights, atol=1e-4 if solver in ("adam", "sgd") else 1e-8)
    np.testing.assert_allclose(many.history, one.history, rtol=1e-4)
    np.testing.assert_allclose(many.held, one.held, rtol=1e-4)


def test_ranks_without_rows(tmp_path):
    shards = table(tmp_path, *XOR)
    np.testing.assert_allclose(by_ranks(BASE, shards, 6).weights, trained(BASE, shards).weights, rtol=1e-6)


@pytest.mark.parametrize("solver", ["l-bfgs", "adam"])
def test_the_same_setting_gives_the_same_bits(tmp_path, solver):
    shards = table(tmp_path, *blobs())
    setting = Setting("classification", (4, 6, 3), solver=solver, max_iter=5, dropout=0.0 if solver == "l-bfgs" else 0.5)
    assert (trained(setting, shards).weights == trained(setting, shards).weights).all()


def test_the_size_of_blocks_and_files_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sparkgap.ml.mlp_setting.BLOCK_VALUES", 1)
    features, labels = blobs()
    setting = Setting("classification", (4, 6, 3), max_iter=5)
    found = [
        trained(replace(setting, block=block), table(tmp_path / f"{block}-{parts}", features, labels, parts=parts)).weights
        for block, parts in ((1000, 1), (7, 1), (64, 30))
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9)


def test_first_weights_and_no_iteration_give_them_back(tmp_path):
    first = np.arange(27.0)
    for solver in ("l-bfgs", "gd", "adam"):
        setting = replace(BASE, first=first, max_iter=0, solver=solver)
        found = trained(setting, table(tmp_path / solver, *XOR))
        assert (found.weights == first).all()
        assert found.iterations == 0


def test_weight_decay_makes_weights_smaller_and_leaves_biases(tmp_path):
    features, labels = blobs()
    for solver in ("l-bfgs", "adamw"):
        setting = Setting("classification", (4, 3), solver=solver, step_size=0.05)
        free = trained(setting, table(tmp_path / f"{solver}0", features, labels))
        decayed = trained(replace(setting, weight_decay=10.0), table(tmp_path / f"{solver}1", features, labels))
        assert np.linalg.norm(decayed.weights[:12]) < 0.1 * np.linalg.norm(free.weights[:12])
    bias = trained(
        replace(setting, weight_decay=1e3, tol=1e-12, solver="l-bfgs"), table(tmp_path / "b", features, labels)
    ).weights[12:]
    shares = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(shares, np.bincount(labels.astype(int)) / 300, atol=5e-3)


@pytest.mark.parametrize("solver", ["l-bfgs", "adam"])
def test_the_best_weights_on_rows_that_are_held_out_are_kept(tmp_path, solver):
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(60, 4)), draw.integers(0, 2, 60).astype(float)  # there is nothing to learn
    held = np.where(np.arange(60) % 2, 0.0, 2.0)
    setting = Setting(
        "classification", (4, 30, 2), "tanh", solver, step_size=0.05, batch=8, held_below=1.0, patience=4, max_iter=100
    )
    found = trained(setting, table(tmp_path, features, labels, held))
    assert found.iterations < 100
    rows = held < 1
    probability = Classify(Net(setting.layers, found.weights, "tanh"), None)(features[rows])["probability"]
    loss = -np.log(probability[np.arange(30), labels[rows].astype(int)]).mean()
    assert loss == pytest.approx(min(found.held), rel=1e-5)
    assert found.held[-1] > min(found.held)


def test_rows_that_are_held_out_are_not_trained_on(tmp_path):
    features, labels = blobs()
    held = np.where(np.arange(300) < 100, 0.0, 2.0)
    wrong = np.where(np.arange(300) < 100, 2 - labels, labels)
    setting = Setting("classification", (4, 3), max_iter=20, held_below=1.0, patience=0)
    both = [trained(setting, table(tmp_path / str(n), features, y, held)) for n, y in enumerate((labels, wrong))]
    assert both[0].history[:5] == both[1].history[:5]
    assert both[0].held != both[1].held


def test_all_rows_held_out(tmp_path):
    shards = table(tmp_path, *XOR, held=np.zeros(4))
    for solver in ("l-bfgs", "adam"):
        with pytest.raises(DataError, match="none are left to train on"):
            trained(replace(BASE, held_below=1.0, solver=solver), shards)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers(tmp_path, bad):
    features = XOR[0].copy()
    features[2, 1] = bad
    with pytest.raises(DataError, match=f"Feature 1 of a row is {bad}; features must be finite"):
        trained(BASE, table(tmp_path, features, XOR[1]))


@pytest.mark.parametrize("bad", [2.0, -1.0, 0.5, np.nan, np.inf])
def test_labels_that_are_no_classes(tmp_path, bad):
    shards = table(tmp_path, XOR[0], np.array([0.0, 1.0, bad, 1.0]))
    with pytest.raises(DataError, match=f"A label is {bad}; labels must be whole numbers from 0 to 1"):
        check_labels(shards, 2)
    if not np.isfinite(bad):
        with pytest.raises(DataError, match="labels must be finite numbers"):
            check_labels(shards, None)
    else:
        check_labels(shards, None)


@pytest.mark.parametrize("solver", ["gd", "sgd"])
def test_a_step_that_is_too_large_is_told(tmp_path, solver):
    features, labels = blobs()
    setting = Setting("regression", (4, 3, 1), "relu", solver, step_size=1e9, patience=0)
    with pytest.raises(DataError, match="The loss is (inf|nan): .* lower stepSize"):
        trained(setting, table(tmp_path, features, labels))


def test_features_too_large_for_a_loss(tmp_path):
    with pytest.raises(DataError, match="The loss is (inf|nan)"):
        trained(Setting("regression", (2, 1)), table(tmp_path, XOR[0] * 1e200, XOR[1]))


def test_no_rows(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        check_labels(table(tmp_path, np.empty((0, 2)), np.empty(0)), 2)
