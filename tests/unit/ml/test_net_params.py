"""Params of the estimators around networks: defaults, what is refused when it is set, what does not fit together. No Spark."""

from __future__ import annotations

import pickle

import pytest

from sparkgap import ml
from sparkgap._errors import ConfigurationError, ModelError
from sparkgap.ml.net_estimators import PickledNetwork
from sparkgap.ml.net_models import NetworkClassificationModel

torch = pytest.importorskip("torch")


def classifier(**params):
    return ml.TorchClassifier(network=torch.nn.Linear(2, 3), **params)


def test_defaults():
    found = {param.name: value for param, value in classifier().extractParamMap().items()}
    assert found.items() >= {
        "featuresCol": "features", "labelCol": "label", "predictionCol": "prediction", "probabilityCol": "probability",
        "rawPredictionCol": "rawPrediction", "loss": "cross_entropy", "optimizer": "adam", "maxIter": 10, "batchSize": 32,
        "validationFraction": 0.0, "patience": 0, "numWorkers": 1, "fromLogits": "auto",
    }.items()  # fmt: skip
    assert classifier().getSeed() == classifier().getSeed() != ml.TorchRegressor().getSeed()
    assert ml.TorchRegressor().getLoss() == "mse"
    assert (classifier().getLearningRate(), classifier().getGpus()) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maxIter", 0), ("batchSize", 0), ("learningRate", 0.0), ("learningRate", float("inf")), ("validationFraction", 1.0),
        ("patience", -1), ("numWorkers", 0), ("gpus", -1.0), ("loss", "hinge"), ("optimizer", "lion"), ("fromLogits", "yes"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_when_they_are_set(name, value):
    setter = getattr(ml.TorchClassifier(), "set" + name[0].upper() + name[1:])
    for call in (lambda: setter(value), lambda: ml.TorchClassifier(**{name: value})):
        with pytest.raises(ConfigurationError, match=f"^{name} must be"):
            call()


def test_each_param_is_set_and_got():
    values = {
        "loss": "binary_cross_entropy", "optimizer": "sgd", "learningRate": 0.5, "maxIter": 7, "batchSize": 4,
        "validationFraction": 0.25, "validationIndicatorCol": "held", "patience": 3, "numWorkers": 2, "gpus": 1.0, "seed": 11,
        "fromLogits": False, "inputCols": ["a", "b"], "featuresCol": "f", "labelCol": "l", "predictionCol": "p",
        "probabilityCol": "q", "rawPredictionCol": "r", "thresholds": [0.5, 0.5],
    }  # fmt: skip
    one_by_one = ml.TorchClassifier()
    for name, value in values.items():
        suffix = name[0].upper() + name[1:]
        assert getattr(one_by_one, "set" + suffix)(value) is one_by_one
        assert getattr(one_by_one, "get" + suffix)() == value
    together = ml.TorchClassifier(**values)
    assert {p.name: v for p, v in together.extractParamMap().items()} == {
        p.name: v for p, v in one_by_one.extractParamMap().items()
    }
    network = torch.nn.Linear(1, 1)
    again = ml.TorchRegressor().setParams(network=network, maxIter=3)
    assert (again.getMaxIter(), again.network is network, again.copy().network is network) == (3, True, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ml.TorchClassifier(stepSize=1.0), "TorchClassifier has no param stepSize. Its params are: batchSize"),
        (lambda: ml.TorchRegressor(thresholds=[1.0]), "TorchRegressor has no param thresholds"),
        (lambda: ml.TorchClassifier(network=3), "network is a int; it must be a torch.nn.Module, or a function"),
        (
            lambda: ml.KerasClassifier(network=torch.nn.Linear(1, 2)),
            "Linear of torch; it must be a Keras 3 model, or a function",
        ),
        (lambda: ml.TorchClassifier()._job(), r"has no network. Set one: TorchClassifier\(network="),
        (
            lambda: classifier(validationFraction=0.1, validationIndicatorCol="held")._job(),
            "Both validationIndicatorCol and validationFraction",
        ),
        (lambda: classifier(optimizer=torch.optim.SGD, learningRate=0.1)._job(), "learning_rate is for a named optimizer"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_a_compiled_network_brings_its_loss():
    network = torch.nn.Linear(1, 2)
    network.compiled = True  # as a Keras model says it
    stage = ml.TorchClassifier(network=network)
    assert stage._job().options == {"loss": None, "optimizer": None, "learning_rate": None}
    with pytest.raises(
        ConfigurationError, match="is compiled, so it brings its loss and optimizer; loss, learningRate cannot"
    ):
        stage.copy({stage.loss: "mse", stage.learningRate: 0.1})._job()


def test_a_network_is_kept_as_a_model_that_can_run_code():
    network = torch.nn.Linear(2, 3)
    models = classifier().setNetwork(network)._stored_models()
    assert models["network"].adapter == "function"
    again = ml.TorchClassifier()
    again._restore(models, {}, {})
    assert torch.equal(again.network.weight, network.weight)
    made = ml.TorchClassifier(network=lambda: network)
    again._restore(made._stored_models(), {}, {})
    assert torch.equal(again.network().weight, network.weight)
    assert pickle.loads(PickledNetwork(pickle.dumps(5))([0.0])["pickled"].tobytes()) == 5


def test_only_names_are_saved():
    assert classifier()._stored_facts() == {}
    with pytest.raises(ConfigurationError, match="optimizer is a type, and only names are saved"):
        classifier(optimizer=torch.optim.SGD)._stored_facts()


def test_a_model_is_not_to_be_made():
    with pytest.raises(ModelError, match="has no network: it is what fit and load return"):
        NetworkClassificationModel().network  # noqa: B018
