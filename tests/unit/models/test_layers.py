"""What layers give, for people to look at: by framework, and from a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import sparkgap as gap
from sparkgap.models import cache
from sparkgap.models.base import Runtime
from sparkgap.models.process import ProcessPredictor

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def predictor(model: gap.Model) -> Any:
    return cache.open_model(model.ref, Runtime("cpu", 1))


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.second = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_torch() -> None:
    net = Two().eval()
    opened = predictor(gap.load(net))
    found = opened.layers(["first", "second"], {"x": X})
    with torch.no_grad():
        np.testing.assert_allclose(found["first"], net.first(torch.from_numpy(X)).numpy(), rtol=1e-6)
        np.testing.assert_allclose(found["second"], net(torch.from_numpy(X)).numpy(), rtol=1e-6)
    assert not opened._module.first._forward_hooks  # nothing stays behind
    with pytest.raises(gap.ConfigurationError, match="no layer third; it has first, second"):
        opened.layers(["third"], {"x": X})


def test_onnx(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Relu", ["twice"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx")
    opened = predictor(gap.load(tmp_path / "net.onnx"))
    found = opened.layers(["twice", "y"], {"x": X})
    np.testing.assert_array_equal(found["twice"], 2 * X)
    np.testing.assert_array_equal(found["y"], np.maximum(2 * X, 0))
    with pytest.raises(gap.ConfigurationError, match="no tensor other; it has twice, y"):
        opened.layers(["other"], {"x": X})


def test_keras_in_a_process_of_its_own(tmp_path: Path) -> None:
    from sparkgap.models.process import call_in_child

    call_in_child(f"{__name__}:save_keras", path=str(tmp_path / "net.keras"))
    model = gap.load(tmp_path / "net.keras", backend="torch")
    opened = ProcessPredictor(model.ref, Runtime("cpu", 1))
    try:
        found = opened.layers(["hidden"], {"x": X})
        np.testing.assert_array_equal(found["hidden"], np.maximum(X.sum(1, keepdims=True).repeat(4, 1), 0))
        with pytest.raises(Exception, match="no layer nope; it has"):
            opened.layers(["nope"], {"x": X})
    finally:
        opened.close()


def save_keras(path: str) -> None:
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, activation="relu", kernel_initializer="ones", name="hidden")(x)
    keras.Model(x, keras.layers.Dense(2, name="out")(hidden)).save(path)


def test_others_say_so() -> None:
    opened = predictor(gap.load(lambda x: {"y": x}))
    with pytest.raises(gap.ConfigurationError, match="do not show their layers"):
        opened.layers(["a"], {"x": X})
