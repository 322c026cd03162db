"""Layout, first weights and predictions of a perceptron, and L-BFGS: pure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparkgap._errors import ConfigurationError
from sparkgap.ml.lbfgs import minimise
from sparkgap.ml.mlp_draws import _hashed, _step, uniform
from sparkgap.ml.mlp_net import (
    Classify,
    Net,
    Regress,
    check_thresholds,
    count_weights,
    first_weights,
    parts,
    predicted,
    softmax,
)


@pytest.mark.parametrize("seed", [0, 1, 123, -7, 2**40])
def test_draws_are_those_of_a_generator_that_is_stepped(seed):
    state, expected = _hashed(seed), []
    for _ in range(777):
        state = _step(state)
        high = state & ((1 << 26) - 1)
        state = _step(state)
        expected.append(((high << 27) + (state & ((1 << 27) - 1))) * 2.0**-53)
    assert uniform(seed, 777).tolist() == expected


def test_first_weights_are_those_that_mllib_draws():
    # MultilayerPerceptronClassifier(layers=[2, 2], seed=1, maxIter=0) of MLlib would begin with these.
    expected = [0.46288487, 0.3373227, -1.23938494, -1.4362471, 1.20124809, 0.73574321]
    np.testing.assert_allclose(first_weights([2, 2], 1), expected, atol=1e-8)


@pytest.mark.parametrize(("activation", "gain"), [("sigmoid", 2.4), ("relu", 6**0.5), ("tanh", 3**0.5)])
def test_first_weights_of_a_layer_lie_within_a_bound_that_its_inputs_give(activation, gain):
    layers = [100, 400, 3]
    for (matrix, bias), inputs in zip(parts(first_weights(layers, 5, activation), layers), layers, strict=False):
        bound = gain / inputs**0.5
        assert abs(matrix).max() <= bound
        assert abs(matrix).max() > 0.99 * bound
        assert abs(bias).max() <= bound


def test_weights_are_matrices_by_columns_and_biases():
    layers = [3, 2, 2]
    flat = np.arange(count_weights(layers), dtype=float)
    (first, first_bias), (second, second_bias) = parts(flat, layers)
    outputs_by_inputs = np.array([[0, 2, 4], [1, 3, 5]])  # MLlib's matrix
    assert (first.T == outputs_by_inputs).all()
    assert first_bias.tolist() == [6, 7]
    assert (second.T == [[8, 10], [9, 11]]).all()
    assert second_bias.tolist() == [12, 13]
    first[0, 0] = -1
    assert flat[0] == -1, "not a view"


def test_what_mllib_gives_for_its_weights():
    # Weights, raw prediction and probability that MLlib's model gives for one row.
    weights = [
        0.43562736294302623, 0.364580202422002, -1.4112729385978997, -1.2643591053546168, 1.1512595235805883,
        0.7857317704872436,
    ]  # fmt: skip
    found = Classify(Net((2, 2), np.array(weights)), None)(np.array([[0.0, 5.0]]))
    np.testing.assert_allclose(found["rawPrediction"], [[-5.905105169408911, -5.53606375628584]], rtol=1e-12)
    np.testing.assert_allclose(found["probability"], [[0.4087726702431394, 0.5912273297568605]], rtol=1e-12)
    assert found["prediction"].tolist() == [1.0]


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_hidden_layers_are_activated_and_the_last_is_not(activation):
    function = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: x * (x > 0), "tanh": np.tanh}[activation]
    layers = (3, 4, 5, 1)
    weights = first_weights(layers, 9)
    x = np.random.default_rng(0).normal(size=(7, 3))
    expected = x
    for number, (matrix, bias) in enumerate(parts(weights, layers)):
        expected = expected @ matrix + bias
        expected = function(expected) if number < 2 else expected
    net = Net(layers, weights, activation)
    np.testing.assert_allclose(net.raw(x), expected, rtol=1e-12)
    np.testing.assert_allclose(Regress(net)(x)["prediction"], expected[:, 0], rtol=1e-12)


def test_large_values_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]
        assert Net((1, 1, 1), np.array([1e6, 0.0, 1.0, 0.0])).raw(np.array([[1e3], [-1e3]])).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (None, [0, 2, 0]),
        ([0.5, 0.5, 0.5], [0, 2, 0]),
        ([0.9, 0.1, 0.9], [1, 2, 1]),
        ([0.5, 0.0, 0.5], [1, 2, 1]),  # a class with threshold 0 wins, but where its probability is 0
    ],
)
def test_thresholds(thresholds, expected):
    probability = np.array([[0.6, 0.3, 0.1], [0.4, 0.0, 0.6], [0.4, 0.3, 0.3]])
    assert predicted(np.log(probability + 1e-9), probability, thresholds).tolist() == expected


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([0.5], "has 1 values, and there are 2 classes"), ([-0.1, 0.5], "below 0"), ([0.0, 0.0], "one at most may be 0")],
)
def test_thresholds_that_do_not_fit(thresholds, message):
    with pytest.raises(ConfigurationError, match=message):
        check_thresholds(thresholds, 2)


def rosenbrock(x):
    a, b = x
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])


def test_lbfgs_finds_the_minimum_of_a_curved_valley():
    points = list(minimise(rosenbrock, np.array([-1.2, 1.0]), 1e-12))
    np.testing.assert_allclose(points[-1].weights, [1.0, 1.0], atol=1e-5)
    losses = [point.loss for point in points]
    assert losses == sorted(losses, reverse=True)
    assert len(points) < 60


def test_lbfgs_steps_satisfy_the_strong_wolfe_conditions():
    points = list(minimise(rosenbrock, np.array([-1.2, 1.0]), 1e-12))
    for before, after in itertools.pairwise(points):
        step = after.weights - before.weights
        assert after.loss <= before.loss + 1e-4 * before.gradient @ step + 1e-15
        assert abs(after.gradient @ step) <= 0.9 * abs(before.gradient @ step) + 1e-15


def test_lbfgs_ends_at_a_minimum_and_where_no_step_helps():
    def flat(x):
        return 1.0, np.zeros(2)

    def wrong(x):  # its gradient is not that of its loss
        return float(x @ x), -2 * x

    assert len(list(minimise(flat, np.ones(2), 1e-6))) == 1
    assert len(list(minimise(wrong, np.ones(2), 1e-6))) == 1


def test_lbfgs_steps_back_from_where_the_loss_is_not_finite():
    def logarithm(x):
        return (float(x[0] - 0.01 * np.log(x[0])), 1 - 0.01 / x) if x[0] > 0 else (float("nan"), np.array([np.nan]))

    *_, last = minimise(logarithm, np.array([0.9]), 1e-10)
    np.testing.assert_allclose(last.weights, [0.01], atol=1e-4)


def test_a_looser_tolerance_ends_earlier():
    curvature = np.logspace(0, 5, 60)

    def narrow(x):
        return float(1 + 0.5 * curvature @ (x * x)), curvature * x

    counts = [len(list(minimise(narrow, np.ones(60), tol))) for tol in (1e-2, 1e-12)]
    assert 20 <= counts[0] < counts[1]
