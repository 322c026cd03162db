"""What a network takes and gives, and how what it gives is read. No Spark."""

from __future__ import annotations

import numpy as np
import pytest

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.ml.net_probe import check_outputs, is_function, made, probe
from sparkgap.ml.net_scores import Scores

torch = pytest.importorskip("torch")
nn = torch.nn

ROW = {"input_0": np.zeros((1, 3)), "input_1": np.zeros(1), "input_2": np.zeros(1)}


class Several(nn.Module):
    def __init__(self, **outputs):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.outputs = outputs

    def forward(self, a, b):
        return {name: self.layer(a) + b[:, None] for name in self.outputs}


def test_a_network_is_looked_at_and_stays_as_it_is():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network.train()
    found = probe(network, ROW, ["input_0"])
    assert (found.output, found.width, found.logits, found.compiled) == ("output", 4, True, False)
    assert [(spec.name, spec.dtype, spec.shape) for spec in found.signature.inputs] == [("input", "float64", (3,))]
    assert network.training
    assert int(network[1].num_batches_tracked) == 0


def test_columns_of_numbers_are_stacked_for_one_input():
    assert probe(nn.Linear(2, 1), ROW, ["input_1", "input_2"]).width == 1
    assert probe(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), ROW, ["input_1", "input_2"]).width == 0


def test_of_several_outputs_the_logits_are_the_prediction():
    found = probe(Several(hidden=1, logits=1), ROW, ["input_0", "input_1"])
    assert (found.output, [spec.name for spec in found.signature.outputs]) == ("logits", ["hidden", "logits"])
    with pytest.raises(ConfigurationError, match="gives one, two, of which none is the prediction"):
        probe(Several(one=1, two=1), ROW, ["input_0", "input_1"])


@pytest.mark.parametrize(
    ("last", "logits"), [(nn.Softmax(1), False), (nn.Sigmoid(), False), (nn.LogSoftmax(1), True), (nn.Tanh(), True)]
)
def test_probabilities_are_told_by_the_last_layer(last, logits):
    assert probe(nn.Sequential(nn.Linear(3, 2), last), ROW, ["input_0"]).logits is logits


def test_what_does_not_fit():
    with pytest.raises(SignatureError, match=r"failed on the first row \(RuntimeError: .*It was given input: float64"):
        probe(nn.Linear(4, 2), ROW, ["input_0"])
    with pytest.raises(SignatureError, match=r"takes 2 tensors \(a, b\), and there are 1 columns"):
        probe(Several(logits=1), ROW, ["input_0"])
    with pytest.raises(ConfigurationError, match=r"gave shape \(1, 3, 1\) for one row"):
        probe(nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (3, 1))), ROW, ["input_0"])
    one, two = (probe(nn.Linear(3, n), ROW, ["input_0"]) for n in (1, 2))
    check_outputs(one, classes=True, binary=True)
    check_outputs(one, classes=False, binary=False)
    with pytest.raises(ConfigurationError, match="one number a row, which tells no classes apart"):
        check_outputs(one, classes=True, binary=False)
    with pytest.raises(ConfigurationError, match="gives 2 numbers a row; a regressor's network gives one"):
        check_outputs(two, classes=False, binary=False)


def test_functions_make_networks():
    assert is_function(lambda: nn.Linear(1, 1))
    assert is_function(lambda: None)
    assert not is_function(nn.Linear(1, 1))
    assert isinstance(made(lambda: nn.Linear(1, 1), "torch"), nn.Linear)
    with pytest.raises(ConfigurationError, match="network is a NoneType; it must be a torch.nn.Module"):
        made(lambda: None, "torch")


def test_logits_and_probabilities():
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 0.0]])
    found = Scores(2, True).of(logits)
    np.testing.assert_allclose(found["probability"], [[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_array_equal(found["rawPrediction"], logits)
    assert found["prediction"].tolist() == [1.0, 0.0]
    assert Scores(2, True, (0.1, 0.9)).of(logits)["prediction"].tolist() == [0.0, 0.0]
    shares = np.array([[0.2, 0.8]])
    found = Scores(2, False).of(shares)
    np.testing.assert_array_equal(found["probability"], shares)
    np.testing.assert_array_equal(found["rawPrediction"], shares)


@pytest.mark.parametrize(("width", "shape"), [(0, (2,)), (1, (2, 1))])
def test_one_output_tells_two_classes(width, shape):
    found = Scores(width, True).of(np.array([np.log(3.0), -1.0]).reshape(shape))
    np.testing.assert_allclose(found["probability"][0], [0.25, 0.75])
    np.testing.assert_allclose(found["rawPrediction"][1], [1.0, -1.0])
    assert found["prediction"].tolist() == [1.0, 0.0]
    found = Scores(width, False).of(np.array([0.75, 0.25]).reshape(shape))
    np.testing.assert_allclose(found["probability"], [[0.25, 0.75], [0.75, 0.25]])
    assert Scores(width, False).classes == 2
