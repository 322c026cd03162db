"""Params of the stages around a model: defaults, setters, copies, and what is refused before Spark is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparkgap as gap
from sparkgap import ml
from sparkgap.ml.featurizers import headless


def test_the_package_is_lazy():
    code = "import sys, sparkgap.ml; assert 'pyspark' not in sys.modules; sparkgap.ml.trusted; dir(sparkgap.ml)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ml.nothing  # noqa: B018


def test_defaults_and_setters():
    stage = ml.ModelTransformer()
    assert (stage.getBatchSize(), stage.getVectorOutput(), stage.getOnError(), stage.getDevice()) == (
        None,
        False,
        "raise",
        "auto",
    )
    stage.setInputCols(["a"]).setOutputCols(["b"]).setVectorOutput(True).setBatchSize(4).setOnError("skip").setDevice("cpu")
    assert (stage.getInputCols(), stage.getOutputCols()) == (["a"], ["b"])
    assert (stage.getBatchSize(), stage.getVectorOutput(), stage.getOnError(), stage.getDevice()) == (4, True, "skip", "cpu")


def test_settings_of_pictures():
    stage = ml.ImageFeaturizer(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="stretch", layout="HWC", scale=1.0)
    stage.setCut("fc").setInputCol("photo").setOutputCol("vector").setModelOutput("y")
    assert (stage.getSize(), stage.getFit(), stage.getLayout(), stage.getScale()) == (32, "stretch", "HWC", 1.0)
    assert (stage.getMean(), stage.getStd(), stage.getCut()) == ([0.0] * 3, [1.0] * 3, "fc")
    [decoder] = stage._inputs()
    assert (decoder.column, decoder.size, decoder.fit, decoder.layout) == ("photo", (32, 32), "stretch", "HWC")
    for name in ("size", "fit", "layout", "scale", "mean", "std"):
        value = getattr(stage, f"get{name.capitalize()}")()
        assert getattr(getattr(stage, f"set{name.capitalize()}")(value), f"get{name.capitalize()}")() == value


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("ModelTransformer", {"batchSize": 0}, "batchSize must be a whole number of at least 1; got 0"),
        ("ModelTransformer", {"onError": "explode"}, "onError must be one of raise, null, skip"),
        ("ImageFeaturizer", {"fit": "squeeze"}, "fit must be one of stretch, cover, contain"),
    ],
)
def test_wrong_values_are_refused(kind, params, message):
    with pytest.raises(gap.ConfigurationError, match=message):
        getattr(ml, kind)(**params)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="batchSize"):  # as Spark's own stages say it
        ml.TextEmbedder(batchSize=1.5)


def test_a_copy_has_its_own_params_and_the_same_model():
    stage = ml.ModelTransformer(model=lambda x: {"y": x}, batchSize=2)
    copy = stage.copy({stage.batchSize: 3})
    assert (stage.getBatchSize(), copy.getBatchSize()) == (2, 3)
    assert copy.uid == stage.uid
    assert copy.getModel() is stage.getModel()


def test_a_copy_may_get_another_model():
    stage = ml.ModelTransformer(model=lambda x: {"y": x})
    copy = stage.copy().setModel(lambda x: {"z": x + 1})
    assert copy.getModel() is not stage.getModel()


def test_no_model():
    with pytest.raises(gap.ConfigurationError, match="has no model"):
        ml.TextEmbedder().getModel()


def test_a_file_that_can_run_code_needs_trust(tmp_path):
    joblib = pytest.importorskip("joblib")
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), tmp_path / "line.joblib")
    with pytest.raises(gap.UntrustedModelError, match="trust=True"):
        ml.ModelTransformer(model=tmp_path / "line.joblib")
    ml.ModelTransformer(model=gap.load(tmp_path / "line.joblib", trust=True))


@pytest.fixture
def network():
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(3, 2)))


@pytest.mark.parametrize("layer", ["last", "2.0"])
def test_a_network_loses_its_head(network, layer):
    import torch

    x = torch.rand(5, 4)
    cut = headless(network, layer)
    torch.testing.assert_close(cut(x), network[1](network[0](x)))
    assert network(x).shape == (5, 2)  # the user's own is whole
    assert not cut.training
    assert network.training


def test_a_layer_that_is_not_there(network):
    with pytest.raises(gap.ConfigurationError, match=r"no layer 'fc'; its linear layers are 0, 2\.0"):
        headless(network, "fc")
    with pytest.raises(gap.ConfigurationError, match=r"cut is for a torch\.nn\.Module"):
        ml.ImageFeaturizer(model=lambda x: {"y": x}, cut="last")


def test_a_network_without_linear_layers():
    torch = pytest.importorskip("torch")
    with pytest.raises(gap.ConfigurationError, match="linear layers are none"):
        headless(torch.nn.Sequential(torch.nn.ReLU()), "last")


def test_several_outputs_need_a_name():
    out = tuple(gap.TensorSpec(n, "float32", (2,)) for n in ("tokens", "pooled"))
    model = gap.load(lambda text: {}, signature=gap.Signature((gap.TensorSpec("text", "str", ()),), out))
    stage = ml.TextEmbedder(model=model)
    with pytest.raises(gap.ConfigurationError, match="modelOutput='tokens'"):
        stage._outputs(model)
    assert stage.setModelOutput("pooled")._outputs(model) == {"pooled": ("features", "vector")}
