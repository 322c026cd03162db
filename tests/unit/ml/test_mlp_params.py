"""Params of the perceptrons: defaults, what is refused when it is set, and what does not fit together. No Spark runs."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pyspark.ml.linalg import DenseVector, Vectors

from sparkgap._errors import ConfigurationError, DataError, ModelError
from sparkgap.ml.mlp import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from sparkgap.ml.mlp_fit import FitIterator
from sparkgap.ml.mlp_model import MultilayerPerceptronClassificationModel
from sparkgap.ml.mlp_net import Net


def test_defaults_are_those_of_mllib():
    stage = MultilayerPerceptronClassifier()
    found = {param.name: value for param, value in stage.extractParamMap().items()}
    assert found.items() >= {
        "featuresCol": "features", "labelCol": "label", "predictionCol": "prediction", "probabilityCol": "probability",
        "rawPredictionCol": "rawPrediction", "maxIter": 100, "tol": 1e-6, "blockSize": 128, "stepSize": 0.03,
        "solver": "l-bfgs",
    }.items()  # fmt: skip
    assert not stage.isDefined(stage.layers)
    assert not stage.isDefined(stage.thresholds)
    assert not stage.isDefined(stage.initialWeights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", []), ("layers", [1]), ("layers", [0, 1]), ("layers", [1, 0]), ("solver", "newton"), ("maxIter", -1),
        ("tol", -1.0), ("stepSize", 0.0), ("blockSize", 0), ("batchSize", 0), ("dropout", 1.0), ("weightDecay", -0.1),
        ("hiddenActivation", "step"), ("validationFraction", 1.0), ("patience", -1), ("numWorkers", 0),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_when_they_are_set(name, value):
    stage = MultilayerPerceptronClassifier()
    setter = getattr(stage, "set" + name[0].upper() + name[1:])
    for call in (lambda: setter(value), lambda: MultilayerPerceptronClassifier(**{name: value})):
        with pytest.raises(ConfigurationError, match=f"^{name}="):
            call()


def test_each_param_is_set_and_got():
    values = {
        "layers": [3, 4, 2], "solver": "adamw", "maxIter": 7, "tol": 0.1, "stepSize": 0.5, "blockSize": 3, "batchSize": 4,
        "dropout": 0.5, "weightDecay": 0.1, "hiddenActivation": "relu", "validationFraction": 0.25, "patience": 3,
        "numWorkers": 2, "seed": 11, "validationIndicatorCol": "held", "featuresCol": "f", "labelCol": "l",
        "predictionCol": "p", "probabilityCol": "q", "rawPredictionCol": "r", "thresholds": [0.5, 0.5],
    }  # fmt: skip
    one_by_one = MultilayerPerceptronClassifier()
    for name, value in values.items():
        suffix = name[0].upper() + name[1:]
        assert getattr(one_by_one, "set" + suffix)(value) is one_by_one
        assert getattr(one_by_one, "get" + suffix)() == value
    together = MultilayerPerceptronClassifier(**values)
    assert {p.name: v for p, v in together.extractParamMap().items()} == {
        p.name: v for p, v in one_by_one.extractParamMap().items()
    }
    assert MultilayerPerceptronRegressor().setParams(layers=[2, 1], maxIter=3).getMaxIter() == 3


def test_initial_weights_are_taken_in_any_form_and_kept_as_json_takes_them():
    stage = MultilayerPerceptronClassifier()
    for given in (range(6), [float(n) for n in range(6)], np.arange(6.0), Vectors.dense(range(6)), Vectors.dense(range(6))):
        stage.setInitialWeights(given)
        assert stage.getInitialWeights() == DenseVector(range(6))
        json.dumps(stage.getOrDefault(stage.initialWeights))


def job(**params):
    return MultilayerPerceptronClassifier(**params)._job()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "layers is not set"),
        ({"layers": [2, 2], "initialWeights": [1.0]}, "initialWeights has 1 values, and layers=.* have 6"),
        ({"layers": [2, 2], "dropout": 0.1}, "it needs one of adam, adamw and sgd"),
        ({"layers": [2, 2], "validationFraction": 0.1, "validationIndicatorCol": "v"}, "Both validationIndicatorCol"),
        ({"layers": [2, 2], "thresholds": [0.1]}, "thresholds has 1 values, and there are 2 classes"),
    ],
)
def test_params_that_do_not_fit_each_other(params, message):
    with pytest.raises(ConfigurationError, match=message):
        job(**params)


def test_a_regressor_has_one_output():
    with pytest.raises(ConfigurationError, match="a regressor has one output"):
        MultilayerPerceptronRegressor(layers=[2, 2])._job()


def test_the_step_suits_the_solver_unless_it_is_set():
    assert job(layers=[2, 2], solver="gd").setting.step_size == 0.03
    assert job(layers=[2, 2], solver="sgd").setting.step_size == 0.03
    assert job(layers=[2, 2], solver="adam").setting.step_size == 0.001
    assert job(layers=[2, 2], solver="adam", stepSize=0.03).setting.step_size == 0.03


def test_a_setting_travels():
    setting = job(layers=[2, 2], initialWeights=range(6)).setting
    again = pickle.loads(pickle.dumps(setting))
    assert again == setting
    assert again.first.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_model_predicts_single_rows():
    model = MultilayerPerceptronClassificationModel(Net((2, 2), np.arange(6.0)))
    for row in (Vectors.dense(1, 2), Vectors.sparse(2, [0, 1], [1.0, 2.0]), [1.0, 2.0], np.array([1.0, 2.0])):
        assert model.predictRaw(row) == Vectors.dense(0 + 4 + 4, 1 + 6 + 5)
        assert model.predict(row) == 1.0
        assert model.predictProbability(row).toArray().sum() == pytest.approx(1)
    assert model.copy({model.thresholds: [0.0, 0.5]}).predict([1.0, 2.0]) == 0.0
    assert (model.numFeatures, model.numClasses, model.weights.size) == (2, 2, 6)
    assert repr(model).endswith("numLayers=2, numClasses=2, numFeatures=2")
    with pytest.raises(ConfigurationError, match="takes 2 features"):
        model.predict([1.0])
    with pytest.raises(RuntimeError, match="No training summary available"):
        model.summary()


def test_each_thread_that_asks_for_models_gets_the_error():
    def failing():
        yield 0, "model"
        raise DataError("wrong rows")

    models = FitIterator(failing())
    assert next(models) == (0, "model")
    for _ in range(2):
        with pytest.raises(DataError, match="wrong rows"):
            next(models)
    assert list(FitIterator(iter([(0, "a")]))) == [(0, "a")]


def test_a_model_without_weights():
    with pytest.raises(ModelError, match="has no weights"):
        MultilayerPerceptronClassificationModel().numFeatures  # noqa: B018
