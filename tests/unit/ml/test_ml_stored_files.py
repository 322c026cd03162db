"""The files beside a stage's metadata: round trips, what is trusted, what is refused."""

from __future__ import annotations

from unittest.mock import MagicMock

import numpy as np
import pyarrow.fs as pafs
import pytest

import sparkgap as gap
from sparkgap.ml import stored_files, trusted
from sparkgap.ml.stored_files import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(pafs.LocalFileSystem(), str(tmp_path / "stage"))


@pytest.fixture
def onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.DOUBLE
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", kind, ["n", 2])],
        [helper.make_tensor_value_info("y", kind, ["n", 2])],
        [helper.make_tensor("two", kind, [1], [2.0])],
    )
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def kept(folder, model):
    told = stored_files.describe(model)
    stored_files.write_model(folder, "m", model)
    return told


def test_a_function_comes_back(folder):
    told = kept(folder, gap.load(lambda x: {"y": 3 * x}))
    with trusted():
        back = stored_files.read_model(folder, "m", told)
    assert back.predict({"x": [1.0, 2.0]})["y"].tolist() == [3.0, 6.0]


def test_code_needs_trust(folder):
    told = kept(folder, gap.load(lambda x: {"y": 3 * x}))
    with pytest.raises(gap.UntrustedModelError, match=r"function model \(callable\).*sparkgap.ml.trusted"):
        stored_files.read_model(folder, "m", told)
    with trusted():
        stored_files.read_model(folder, "m", told)
    with pytest.raises(gap.UntrustedModelError):  # the block is over
        stored_files.read_model(folder, "m", told)


def test_metadata_that_lies_about_the_format_helps_nobody(folder):
    told = kept(folder, gap.load(lambda x: {"y": 3 * x})) | {"adapter": "xgboost", "format": "file"}
    with pytest.raises(gap.UntrustedModelError):  # there is a pickle
        stored_files.read_model(folder, "m", told)


def test_a_folder_that_brings_code_is_told_by_its_content(folder, tmp_path):
    files = tmp_path / "stage" / "models" / "m"
    files.mkdir(parents=True)
    (files / "config.json").write_text("{}")
    (files / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]')
    told = {"adapter": "sentence_transformers", "format": "folder", "meta": {}, "file": None, "digest": ""}
    with pytest.raises(gap.UntrustedModelError):
        stored_files.read_model(folder, "m", told | {"signature": gap.Signature((), ()).to_json()})


def test_a_file_without_code_needs_no_trust(folder, onnx_file):
    model = gap.load(onnx_file)
    told = kept(folder, model)
    onnx_file.unlink()  # the copy is enough
    back = stored_files.read_model(folder, "m", told)
    assert back.signature == model.signature
    assert back.predict({"x": [[1.0, 2.0]]})["y"].tolist() == [[2.0, 4.0]]


def test_a_signature_that_was_given_is_kept(folder):
    spec = gap.TensorSpec("y", "float64", ())
    given = gap.Signature((gap.TensorSpec("x", "float64", ()),), (spec,))
    told = kept(folder, gap.load(lambda x: {"y": x}, signature=given))
    with trusted():
        assert stored_files.read_model(folder, "m", told).signature.outputs == (spec,)


def test_changed_files_are_refused(folder, onnx_file, tmp_path):
    told = kept(folder, gap.load(onnx_file))
    changed = tmp_path / "stage" / "models" / "m" / "double.onnx"
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(gap.ModelError, match="not what was saved"):
        stored_files.read_model(folder, "m", told)


def test_a_missing_file_is_refused(folder, onnx_file, tmp_path):
    told = kept(folder, gap.load(onnx_file))
    (tmp_path / "stage" / "models" / "m" / "double.onnx").unlink()
    with pytest.raises(gap.ModelError, match="files are missing"):
        stored_files.read_model(folder, "m", told)


def test_names_do_not_lead_out_of_the_folder(folder, onnx_file):
    told = kept(folder, gap.load(onnx_file)) | {"file": f"../../../../..{onnx_file}"}
    back = stored_files.read_model(folder, "m", told)
    assert back.ref.path != str(onnx_file)
    assert back.ref.digest in back.ref.path


def test_arrays_come_back_and_may_be_written_to(folder):
    given = {"w": np.arange(6.0).reshape(2, 3), "b": np.array([True, False]), "empty": np.empty((0, 4), np.float32)}
    stored_files.write_arrays(folder, given)
    back = stored_files.read_arrays(folder)
    assert set(back) == set(given)
    for name, array in given.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    back["w"][0, 0] = 7.0


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_arrays_are_refused(folder, tmp_path, damage):
    stored_files.write_arrays(folder, {"w": np.arange(600.0)})
    file = tmp_path / "stage" / "arrays.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
    with pytest.raises(gap.ModelError, match="arrays of the stage cannot be read"):
        stored_files.read_arrays(folder)


def spark_that_sees(path):
    """Return a stand-in for a session that has the metadata of a stage at some path."""
    spark = MagicMock()
    spark.read.text.return_value.select.return_value.first.return_value = (f"{path}/metadata/part-0.txt",)
    return spark


def test_the_folder_is_where_spark_has_the_metadata(tmp_path):
    (tmp_path / "a b" / "metadata").mkdir(parents=True)
    found = Folder.of("elsewhere", spark_that_sees(f"file://{tmp_path}/a%20b"))
    assert found.path == str(tmp_path / "a b")


def test_a_folder_that_only_spark_sees(tmp_path):
    with pytest.raises(gap.ConfigurationError, match="this process sees no such folder.*s3://"):
        Folder.of("stage", spark_that_sees(f"file://{tmp_path}/nothing"))
