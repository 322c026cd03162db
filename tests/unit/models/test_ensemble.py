"""Models of several: their mean or their vote, what must agree, and how they travel with their files."""

from __future__ import annotations

import pickle
import shutil
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelOutputError, SignatureError
from sparkgap.models import cache
from sparkgap.models.carried import Carried
from sparkgap.models.ensemble import agreed, averaged, ensemble_of
from sparkgap.models.model import Model
from sparkgap.tensors.spec import Signature, TensorSpec


def times(factor: float, dtype: str = "float32") -> Model:
    return gap.load(lambda x: {"y": (x * factor).astype(dtype)})


def labels(shift: int) -> Model:
    return gap.load(lambda x: {"y": x.astype(np.int64) % 3 + shift, "p": x.astype(np.float64) + shift})


def onnx_file(path: Path, factor: float) -> Path:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "f"], ["y"])], "times",
        [tensor("x", onnx.TensorProto.FLOAT, ["n", 2])], [tensor("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(np.array([factor], np.float32), "f")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


stacks = hnp.array_shapes(min_dims=1, max_dims=2, max_side=5).flatmap(
    lambda shape: st.lists(hnp.arrays(np.int64, shape, elements=st.integers(-3, 3)), min_size=1, max_size=6)
)


@given(stacks)
def test_the_vote_is_the_most_frequent_label_and_of_equals_the_smallest(arrays: list[np.ndarray]) -> None:
    got = averaged("y", arrays, "vote")
    assert got.dtype == np.int64
    assert got.shape == arrays[0].shape
    for place in np.ndindex(got.shape):
        counts = Counter(int(a[place]) for a in arrays)
        assert got[place] == min(label for label, n in counts.items() if n == max(counts.values()))


@given(stacks)
def test_the_mean_is_the_mean(arrays: list[np.ndarray]) -> None:
    floats = [a.astype(np.float32) for a in arrays]
    got = averaged("y", floats, "mean")
    assert got.dtype == np.float32
    for place in np.ndindex(got.shape):
        assert got[place] == np.float32(statistics.fmean(float(a[place]) for a in floats))


def test_a_mean_of_float16_does_not_overflow() -> None:
    big = np.full(3, 60000, np.float16)
    assert averaged("y", [big] * 4, "mean").tolist() == big.tolist()


@pytest.mark.parametrize("labels_", [np.array(["b", "a"], object), np.array(["b", "a"]), np.array([True, False])])
def test_votes_of_words_and_booleans(labels_: np.ndarray) -> None:
    got = averaged("y", [labels_, labels_, labels_[::-1]], "vote")
    assert got.tolist() == labels_.tolist()
    assert got.dtype == labels_.dtype


@pytest.mark.parametrize(
    ("array", "average"),
    [(np.array([1]), "mean"), (np.array(["a"]), "mean"), (np.array([True]), "mean"), (np.array([0.5]), "vote")],
)
def test_what_cannot_be_averaged_is_an_error(array: np.ndarray, average: str) -> None:
    with pytest.raises(ModelOutputError, match=r"Output `y` of the members: .* Set average=|set average="):
        averaged("y", [array, array], average)


def test_an_ensemble_is_a_model_with_the_files_of_its_members(tmp_path: Path) -> None:
    files = [onnx_file(tmp_path / f"{f}.onnx", f) for f in (1.0, 2.0, 6.0)]
    members = [gap.load(file) for file in files] + [gap.load(files[0])]
    model = ensemble_of(members)
    assert model.signature == members[0].signature
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for file in files:
        file.unlink()
    ref = Path(model.ref.path)
    for other in ref.parent.iterdir():  # as on another machine: nothing but the bundle
        if other.is_dir() and other != ref:
            shutil.rmtree(other)
    cache._cache = None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict({"x": x})["y"], x * 2.5)


def test_members_with_folders_travel_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = times(2.0)
    raw = pickle.dumps(Carried.of(model))
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "elsewhere"))
    again = pickle.loads(raw).unpack()
    assert str(again.ref.path).startswith(str(tmp_path / "elsewhere"))
    assert again.predict({"x": [3.0]})["y"].tolist() == [6.0]
    assert again.ref.digest == model.ref.digest
    assert pickle.loads(raw).unpack().ref == again.ref


def test_equal_ensembles_are_the_same_bundle() -> None:
    one, two = times(1.0), times(2.0)
    assert ensemble_of([one, two]).ref.digest == ensemble_of([one, two]).ref.digest
    assert ensemble_of([one, two]).ref.digest != ensemble_of([one, one]).ref.digest


def test_a_way_for_each_output() -> None:
    model = ensemble_of([labels(0), labels(0), labels(1)], {"y": "vote"})
    got = model.predict({"x": [4, 5]})
    assert got["y"].tolist() == [1, 2]
    np.testing.assert_allclose(got["p"], [13 / 3, 16 / 3])
    with pytest.raises(ModelOutputError, match="int64 has no mean"):
        ensemble_of([labels(0), labels(1)]).predict({"x": [1]})
    with pytest.raises(ModelOutputError, match="average names z, which the members do not give; their outputs are y, p"):
        ensemble_of([labels(0)], {"z": "vote", "y": "vote"}).predict({"x": [1]})


def test_members_that_give_other_tensors() -> None:
    wide = gap.load(lambda x: {"y": np.stack([x, x], 1).astype(np.float32)})
    with pytest.raises(ModelOutputError, match=r"Member 0 gives .*\(1,\).* and member 1 .*\(1, 2\)"):
        ensemble_of([times(1.0), wide]).predict({"x": [1.0]})


X = TensorSpec("x", "float32", (2,))
Y = TensorSpec("y", "float32", ())
CONTRADICTIONS = [
    (Signature((TensorSpec("z", "float32", (2,)),), (Y,)), "Member 0 has the inputs x and member 1 z"),
    (Signature((TensorSpec("x", "float64", (2,)),), (Y,)), "Input `x` is float32 .* and float64 .* in member 1"),
    (Signature((TensorSpec("x", "float32", (3,)),), (Y,)), "Input `x` is"),
    (Signature((X,), (TensorSpec("y", "float32", (1,)),)), "Output `y` is"),
    (Signature((X,), (Y, TensorSpec("z"))), "outputs y and member 1 y, z"),
    (Signature((X,), (Y,), 4), "Member 0 takes any number of rows a call and member 1 exactly 4 rows"),
]


@pytest.mark.parametrize(("other", "words"), CONTRADICTIONS)
def test_signatures_that_contradict(other: Signature, words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        agreed([Signature((X,), (Y,)), other])


def test_signatures_complete_each_other() -> None:
    open_x, open_y = TensorSpec("x", None, (None,)), TensorSpec("y", "float32")
    assert agreed([Signature((open_x,)), Signature((X,), (open_y,)), Signature((X,), (Y,))]) == Signature((X,), (Y,))
    assert agreed([Signature((X,), (Y,))]) == Signature((X,), (Y,))


def test_known_labels_are_refused_before_anything_runs() -> None:
    signature = Signature((TensorSpec("x", "float32", ()),), (TensorSpec("y", "int64", ()),))
    member = gap.load(lambda x: x.astype(np.int64), signature=signature)
    with pytest.raises(SignatureError, match=r"Output `y` of the members: int64 has no mean"):
        ensemble_of([member])
    with pytest.raises(SignatureError, match="average names p"):
        ensemble_of([member], {"p": "mean", "y": "vote"})
    assert ensemble_of([member], "vote").signature == signature


@pytest.mark.parametrize("average", ["median", {"y": "max"}, None])
def test_wrong_ways(average: object) -> None:
    with pytest.raises(ConfigurationError, match="'mean', 'vote', or a dict"):
        ensemble_of([times(1.0)], average)  # type: ignore[arg-type]


def test_no_members() -> None:
    with pytest.raises(ConfigurationError, match="at least one model"):
        ensemble_of([])
