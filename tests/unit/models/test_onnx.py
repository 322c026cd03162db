from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import basic_pitch
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models import onnx as module_under_test
from sparkgap.models.base import Packed, Runtime
from sparkgap.models.onnx import OnnxAdapter
from sparkgap.tensors.spec import Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
DATASETS = Path(onnxruntime.__file__).parent / "datasets"
NMP = Path(basic_pitch.__file__).parent / "saved_models/icassp_2022/nmp.onnx"
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def matmul(batch: Any = "batch", **options: Any) -> onnx.ModelProto:
    """Return a model that computes y = x @ WEIGHTS and s = sum of y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axes"], ["s"], keepdims=0),
    ]
    weights = [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array([1]), "axes")]
    return model(nodes, [value("x", [batch, 4])], [value("y", [batch, 3]), value("s", [batch])], weights)


def reference(path: Path, block: dict[str, np.ndarray], size: int | None = None) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    rows = len(next(iter(block.values())))
    size = size or rows
    parts = [session.run(None, {k: v[i : i + size] for k, v in block.items()}) for i in range(0, rows, size)]
    return {n: np.concatenate([p[i] for p in parts]) for i, n in enumerate(names)}


class TestProto(ModelAdapterConformance):
    def adapter(self) -> OnnxAdapter:
        return OnnxAdapter()

    def source(self, folder: Path) -> onnx.ModelProto:
        return matmul()

    def block(self) -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        y = block["x"] @ WEIGHTS
        return {"y": y, "s": y.sum(axis=1)}


class TestRealFile(ModelAdapterConformance):
    def adapter(self) -> OnnxAdapter:
        return OnnxAdapter()

    def source(self, folder: Path) -> Path:
        return Path(shutil.copy(NMP, folder))

    def block(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        return {"serving_default_input_2:0": rng.normal(size=(4, 43844, 1)).astype(np.float32) / 10}

    def expected(self, source: Path, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return reference(source, block)


class TestFixedBatch(ModelAdapterConformance):
    def adapter(self) -> OnnxAdapter:
        return OnnxAdapter()

    def source(self, folder: Path) -> Path:
        return Path(shutil.copy(LIGHT / "light_squeezenet.onnx", folder))

    def block(self) -> dict[str, np.ndarray]:
        return {"data_0": np.random.default_rng(2).normal(size=(4, 3, 224, 224)).astype(np.float32)}

    def expected(self, source: Path, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return reference(source, block, size=1)


class TestWeightFiles(ModelAdapterConformance):
    def adapter(self) -> OnnxAdapter:
        return OnnxAdapter()

    def source(self, folder: Path) -> Path:
        path = folder / "net.onnx"
        onnx.save_model(matmul(), str(path), save_as_external_data=True, location="net weights.data", size_threshold=60)
        return path

    def block(self) -> dict[str, np.ndarray]:
        return {"x": np.eye(4, dtype=np.float32)}

    def expected(self, source: Path, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": WEIGHTS, "s": WEIGHTS.sum(axis=1)}


class TestStrings(ModelAdapterConformance):
    def adapter(self) -> OnnxAdapter:
        return OnnxAdapter()

    def source(self, folder: Path) -> onnx.ModelProto:
        keys, values = ["ab", "c", "déjà"], ["AB", "C", "DÉJÀ"]
        node = helper.make_node(
            "LabelEncoder", ["text"], ["upper"], domain="ai.onnx.ml", keys_strings=keys, values_strings=values
        )
        made = model([node], [value("text", ["n"], TensorProto.STRING)], [value("upper", ["n"], TensorProto.STRING)])
        made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
        return made

    def block(self) -> dict[str, np.ndarray]:
        return {"text": np.array(["ab", "c", "déjà", "ab"], object)}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"upper": np.array([t.upper() for t in block["text"]], object)}


def pack(source: Any, folder: Path, **options: Any) -> Packed:
    folder.mkdir(exist_ok=True)
    return OnnxAdapter().pack(source, folder, options)


def test_signature_is_read_from_the_file(tmp_path: Path) -> None:
    packed = pack(NMP, tmp_path / "a")
    assert packed.signature.inputs == (TensorSpec("serving_default_input_2:0", "float32", (43844, 1)),)
    assert packed.signature.outputs[0] == TensorSpec("StatefulPartitionedCall:2", "float32", (172, 88))
    assert packed.signature.batch is None
    assert packed.file == NMP
    assert list((tmp_path / "a").iterdir()) == []


def test_fixed_batch_is_in_the_signature(tmp_path: Path) -> None:
    packed = pack(LIGHT / "light_squeezenet.onnx", tmp_path / "a")
    assert packed.signature == Signature(
        (TensorSpec("data_0", "float32", (3, 224, 224)),), (TensorSpec("softmaxout_1", "float32", (1000, 1, 1)),), 1
    )


def test_unknown_inner_lengths_are_open(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", "w", 2])], [value("y", ["n", None, 2])])
    packed = pack(proto, tmp_path / "a")
    assert packed.signature.inputs == (TensorSpec("x", "float32", (None, 2)),)
    assert packed.signature.outputs == (TensorSpec("y", "float32", (None, 2)),)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
)
def test_every_numeric_dtype_goes_through(dtype: str, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model([helper.make_node("Identity", ["x"], ["y"])], [value("x", ["n", 2], kind)], [value("y", ["n", 2], kind)])
    packed = pack(proto, tmp_path / "a")
    assert [s.dtype for s in packed.signature.inputs + packed.signature.outputs] == [dtype, dtype]
    x = np.array([[0, 1], [1, 0]], dtype)
    out = OnnxAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": x})["y"]
    assert out.dtype == x.dtype
    assert out.tolist() == x.tolist()


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.input.append(value("w", [4, 3]))
    assert [s.name for s in pack(proto, tmp_path / "a").signature.inputs] == ["x"]


def test_option_outputs_computes_only_these(tmp_path: Path) -> None:
    packed = pack(matmul(), tmp_path / "a", outputs=["s"])
    out = OnnxAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": np.ones((2, 4), np.float32)})
    assert list(out) == ["s"]
    np.testing.assert_allclose(out["s"], [WEIGHTS.sum()] * 2, rtol=1e-6)


def test_unknown_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="outputs names 'z'; the model's outputs are 'y', 's'"):
        pack(matmul(), tmp_path / "a", outputs=["z"])


def test_class_probabilities_as_mappings_become_a_matrix(tmp_path: Path) -> None:
    path = DATASETS / "logreg_iris.onnx"
    packed = pack(path, tmp_path / "a")
    assert packed.signature.outputs[1] == TensorSpec("probabilities", "float32", (None,))
    x = np.array([[5.0, 3.4], [6.2, 2.9], [7.1, 3.0]], np.float32)
    out = OnnxAdapter().open(path, packed, Runtime()).predict({"float_input": x})
    maps = onnxruntime.InferenceSession(str(path)).run(["probabilities"], {"float_input": x})[0]
    assert out["probabilities"].dtype == np.float32
    assert out["probabilities"].tolist() == [[m[0], m[1], m[2]] for m in maps]


def test_constants_feed_inputs_that_are_no_rows(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Mul", ["x", "scale"], ["y"])], [value("x", ["n", 2]), value("scale", [])], [value("y", ["n", 2])]
    )
    packed = pack(proto, tmp_path / "a", constants={"scale": np.float32(3)})
    assert [s.name for s in packed.signature.inputs] == ["x"]
    out = OnnxAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": np.ones((2, 2), np.float32)})
    assert out["y"].tolist() == [[3.0, 3.0], [3.0, 3.0]]


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"nix": 1}, "The model has no input nix; it has x"),
        ({"x": object()}, "Constant 'x' is <object .*; it must be a number, text, bool"),
        ([1], r"constants is \[1\]; give a dict"),
    ],
)
def test_wrong_constants_are_refused(constants: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        pack(matmul(), tmp_path / "a", constants=constants)


def test_inputs_without_a_common_batch_are_refused(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], [value("a", [2, 3]), value("b", [3, 4])], [value("c", [2, 4])]
    )
    with pytest.raises(ModelFormatError, match=r"different lengths of the first axis \(`a`: 2, `b`: 3\)"):
        pack(proto, tmp_path / "a")


def test_types_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", ["n"], TensorProto.BFLOAT16)],
        [value("y", ["n"], TensorProto.BFLOAT16)],
    )
    with pytest.raises(ModelFormatError, match=r"`x` of this ONNX model is a tensor\(bfloat16\)"):
        pack(proto, tmp_path / "a")


def test_weights_in_a_subfolder_travel_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "w").mkdir(parents=True)
    onnx.save_model(
        matmul(), str(source / "net.onnx"), save_as_external_data=True, location="w/" + "n" * 150, size_threshold=60
    )
    packed = pack(source / "net.onnx", tmp_path / "a")
    assert packed.file is None
    shutil.rmtree(source)
    out = OnnxAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": np.eye(4, dtype=np.float32)})
    np.testing.assert_allclose(out["y"], WEIGHTS, rtol=1e-6)


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    onnx.save_model(matmul(), str(tmp_path / "net.onnx"), save_as_external_data=True, location="w.bin", size_threshold=60)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFormatError, match=r"net\.onnx keeps weights in w\.bin, and there is no such file beside it"):
        pack(tmp_path / "net.onnx", tmp_path / "a")


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    proto = matmul()
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFormatError, match=r"keeps weights in \.\./secret, outside of its folder"):
        pack(tmp_path / "net.onnx", tmp_path / "a")


def test_large_protos_keep_their_weights_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "_PROTO_LIMIT", 100)
    big = matmul()
    big.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.tile(WEIGHTS, (1, 200)), "w"))
    del big.graph.output[0].type.tensor_type.shape.dim[1:]
    big.graph.output[0].type.tensor_type.shape.dim.add(dim_value=600)
    before = big.SerializeToString(deterministic=True)
    packed = pack(big, tmp_path / "a")
    assert (tmp_path / "a" / "weights.bin").stat().st_size >= 4 * 600 * 4
    assert big.SerializeToString(deterministic=True) == before
    out = OnnxAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": np.eye(4, dtype=np.float32)})
    np.testing.assert_allclose(out["y"], np.tile(WEIGHTS, (1, 200)), rtol=1e-6)


def test_truncated_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(NMP.read_bytes()[:5000])
    with pytest.raises(ModelFormatError, match=r"cut\.onnx cannot be read as an ONNX model: InvalidProtobuf.*truncated"):
        gap.load(path)


def test_no_cuda_is_an_error_and_never_the_cpu(tmp_path: Path) -> None:
    packed = pack(matmul(), tmp_path / "a")
    with pytest.raises(ConfigurationError, match=r"Device 'cuda:0' was asked for.*Install onnxruntime-gpu"):
        OnnxAdapter().open(tmp_path / "a", packed, Runtime(device="cuda:0"))
    with pytest.raises(ConfigurationError, match="runs on cpu, cuda or cuda:N; got device 'tpu'"):
        OnnxAdapter().open(tmp_path / "a", packed, Runtime(device="tpu"))


def test_allocation_failure_is_lack_of_memory(tmp_path: Path) -> None:
    packed = pack(matmul(), tmp_path / "a")
    predictor = OnnxAdapter().open(tmp_path / "a", packed, Runtime())
    shape = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])
    proto = model(
        [helper.make_node("Squeeze", ["x"], ["q"]), helper.make_node("ConstantOfShape", ["q"], ["y"])],
        [shape],
        [value("y", [None])],
    )
    huge = OnnxAdapter().open(tmp_path / "b", pack(proto, tmp_path / "b"), Runtime())
    with pytest.raises(Exception, match=r"Failed to allocate|alloc") as caught:
        huge.predict({"x": np.array([[1 << 20], [1 << 20], [1 << 10]])})
    assert predictor.is_out_of_memory(caught.value), caught.value
