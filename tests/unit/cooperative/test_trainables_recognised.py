from __future__ import annotations

import subprocess
import sys

import pytest

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.trainables import Recipe, environment_of, framework_of
from sparkgap.cooperative.trainables.columns import Columns
from sparkgap.cooperative.trainables.jax_model import JaxModel

CHECK = """
import sys
from sparkgap.cooperative import checkpoints
from sparkgap.cooperative.trainables import Recipe, framework_of
from sparkgap.cooperative.trainables.jax_model import JaxModel
Recipe("x", "y", "mse", "sgd")
assert framework_of(JaxModel(len, {})) == "jax"
checkpoints.rng_state()
assert not {"torch", "jax", "keras", "tensorflow", "pyspark", "safetensors"} & set(sys.modules), sys.modules.keys()
"""


def test_no_framework_is_imported_to_recognise_a_model() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=120)


def test_models_in_jax_are_pairs_or_values() -> None:
    assert framework_of((len, {})) == framework_of(JaxModel(len, {})) == "jax"
    assert environment_of((len, {})) == {}
    with pytest.raises(ConfigurationError, match="is no model that can be trained"):
        framework_of(({}, len))


def test_columns_are_paired_with_tensors() -> None:
    assert Columns.of("a", "y", ["x"]).positional == ("a",)
    assert Columns.of(["a", "b"], "y", ["x"]).positional == (("a", "b"),)
    assert Columns.of(["a", "b"], "y", ["x", "z"]).positional == ("a", "b")
    assert Columns.of(["a", "b"], "y", ["x"], 2).positional == ("a", "b")
    assert Columns.of({"x": ["a", "b"]}, "y", ["x"]).named == (("x", ("a", "b")),)
    assert Columns.of({"x": "a", "mask": "b"}, "y", ["x"], 2).named == (("x", "a"), ("mask", "b"))
    for inputs in (["a", "b", "c"], {"x": "a"}, {"x": "a", "z": "b", "w": "c"}, {"x": "a", "z": 3}):
        with pytest.raises(ConfigurationError):
            Columns.of(inputs, "y", ["x", "z"])


def test_only_scalars_are_stacked() -> None:
    import numpy as np

    columns = Columns.of(["a", "b"], "y", ["x"])
    assert columns.read({"a": np.ones(3), "b": np.zeros(3), "y": np.ones(3)})[0][0].tolist() == [[1, 0]] * 3
    with pytest.raises(DataError, match="`b` has more than one number a row"):
        columns.read({"a": np.ones(3), "b": np.zeros((3, 2)), "y": np.ones(3)})


def test_a_schedule_returns_numbers() -> None:
    assert Recipe("x", "y", schedule=lambda s: 0.5**s).factor(2) == 0.25
    for bad in (None, -1, float("nan")):
        with pytest.raises(ConfigurationError, match=r"schedule\(0\) returned"):
            Recipe("x", "y", schedule=lambda s, bad=bad: bad).factor(0)
