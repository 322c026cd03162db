"""The public face: what `import sparkgap` costs, and that its names are what they say."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

import sparkgap
from sparkgap import _errors

_HEAVY = {"pandas", "pyspark", "torch", "tensorflow", "keras", "jax", "onnxruntime", "sklearn", "numpy", "pyarrow"}


def test_all_is_sorted_and_every_name_loads():
    assert sparkgap.__all__ == sorted(sparkgap.__all__)
    assert set(sparkgap.__all__) == set(sparkgap._HOME)
    for name in sparkgap.__all__:
        assert getattr(sparkgap, name) is not None


def test_import_loads_no_framework_no_pandas_and_no_spark():
    code = "import sparkgap, sys, json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not _HEAVY & set(json.loads(out))


def test_looking_for_an_adapter_loads_no_framework():
    code = (
        "from sparkgap.models.registry import adapters; adapters();"
        "import sys, json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not (_HEAVY - {"numpy", "pyarrow"}) & set(json.loads(out))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparkgap.nonsense


def _errors_of_the_tree() -> list[type[Exception]]:
    found = [_errors.SparkGapError]
    for cls in found:
        found += cls.__subclasses__()
    return [c for c in found if c.__module__ == "sparkgap._errors"]


@pytest.mark.parametrize("cls", _errors_of_the_tree())
def test_errors_pickle_and_have_a_condition_of_their_own(cls):
    again = pickle.loads(pickle.dumps(cls("what happened")))
    assert type(again) is cls
    assert str(again) == "what happened"
    assert [c.condition for c in _errors_of_the_tree()].count(cls.condition) == 1


def test_every_error_is_drawn_in_the_tree():
    for cls in _errors_of_the_tree():
        assert cls.__name__ in _errors.__doc__


def test_the_stages_need_no_import_of_their_own() -> None:
    code = "import sys, sparkgap as gap; assert 'pyspark' not in sys.modules; print(gap.ml.ModelTransformer.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "sparkgap.ml.model_transformer\n"
