from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import basic_pitch
import numpy as np
import pytest

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError, ModelOutputError
from sparkgap.models import bundle
from sparkgap.models.base import Runtime
from sparkgap.models.tensorflow import TensorFlowAdapter, import_tensorflow
from sparkgap.testing import ModelAdapterConformance

tf = import_tensorflow(Runtime(threads=2))

NMP = Path(basic_pitch.__file__).parent / "saved_models/icassp_2022/nmp"
X = np.arange(24, dtype=np.float32).reshape(6, 4) / 5


class Net(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3) / 7)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def score(self, x: Any) -> Any:
        return {"y": x @ self.weights, "best": tf.argmax(x @ self.weights, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])  # type: ignore[untyped-decorator]
    def shout(self, text: Any) -> Any:
        return {"loud": tf.strings.upper(text), "length": tf.strings.length(text)}


NET = Net()  # its functions refer to it weakly


def saved(folder: Path, net: Any = None, **signatures: Any) -> Path:
    net = net or NET
    tf.saved_model.save(net, str(folder / "net"), signatures=signatures or {"serving_default": net.score, "shout": net.shout})
    return folder / "net"


class Conformance(ModelAdapterConformance):
    deterministic = False  # TensorFlow numbers its nodes on

    def adapter(self) -> TensorFlowAdapter:
        return TensorFlowAdapter()

    def block(self) -> dict[str, np.ndarray]:
        return {"x": X.copy()}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = NET.score(tf.constant(block["x"]))
        return {name: found[name].numpy() for name in ("best", "y")}


class TestFolder(Conformance):
    deterministic = True

    def source(self, folder: Path) -> Path:
        return saved(folder)


class TestModule(Conformance):
    def source(self, folder: Path) -> Any:
        class OneSignature(Net):
            shout = None

        return OneSignature()


class TestFunction(Conformance):
    def source(self, folder: Path) -> Any:
        return NET.score


class TestText(Conformance):
    deterministic = True

    def source(self, folder: Path) -> Path:
        return saved(folder)

    def options(self) -> dict[str, Any]:
        return {"signature_key": "shout"}

    def block(self) -> dict[str, np.ndarray]:
        return {"text": np.array(["one", "zwölf", "", "four"], object)}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = block["text"]
        lengths = np.array([len(t.encode()) for t in texts], np.int32)
        # TensorFlow's upper knows only ASCII
        return {"length": lengths, "loud": np.array([t.upper().replace("Ö", "ö") for t in texts], object)}


class TestOldModel(Conformance):
    """A SavedModel of Keras 2, which the loader of TensorFlow 2 refuses today."""

    deterministic = True
    tolerance = 1e-5  # of values below 1: the sums of its convolutions depend on the batch size

    def source(self, folder: Path) -> Path:
        return NMP

    def block(self) -> dict[str, np.ndarray]:
        time = np.arange(43844, dtype=np.float32) / 22050
        tones = [np.sin(2 * np.pi * pitch * time) for pitch in (220.0, 440.0, 660.0, 880.0)]
        return {"input_2": np.stack(tones)[:, :, None].astype(np.float32)}

    def expected(self, source: Path, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        v1 = tf.compat.v1
        with v1.Session(graph=tf.Graph()) as session:
            chosen = v1.saved_model.load(session, ["serve"], str(source)).signature_def["serving_default"]
            feed = {chosen.inputs["input_2"].name: block["input_2"]}
            found = session.run({n: chosen.outputs[n].name for n in sorted(chosen.outputs)}, feed)
        return {name: found[name] for name in sorted(found)}


def test_a_real_network_hears_a_note() -> None:
    time = np.arange(43844, dtype=np.float32) / 22050
    model = gap.load(NMP)
    assert model.signature.inputs[0].describe() == "float32 (batch, 43844, 1)"
    assert [(s.name, s.shape) for s in model.signature.outputs] == [
        ("contour", (172, 264)), ("note", (172, 88)), ("onset", (172, 88))
    ]  # fmt: skip
    found = TensorFlowAdapter().open(Path(model.ref.path), model.ref.packed(), Runtime())
    note = found.predict({"input_2": np.sin(2 * np.pi * 440 * time)[None, :, None]})["note"]
    assert int(note[0].mean(axis=0).argmax()) + 21 == 69  # MIDI number of A4


def test_the_driver_needs_no_tensorflow_to_load_a_folder(tmp_path: Path) -> None:
    code = """
import sys
import sparkgap as gap
model = gap.load(sys.argv[1])
assert "tensorflow" not in sys.modules
print(model.signature.to_json())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(saved(tmp_path))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    signature = gap.Signature.from_json(done.stdout)
    assert [(s.name, s.describe()) for s in signature.outputs] == [("best", "int64 (batch)"), ("y", "float32 (batch, 3)")]


def test_a_signature_is_chosen_by_key(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert [s.name for s in gap.load(path).signature.inputs] == ["x"]
    assert [s.dtype for s in gap.load(path, signature_key="shout").signature.inputs] == ["str"]
    with pytest.raises(ConfigurationError, match=r"has no signature 'tell'; it has: .*, .*signature_key="):
        gap.load(path, signature_key="tell")
    net = Net()
    (tmp_path / "only").mkdir()
    only = saved(tmp_path / "only", net, other=net.score)
    assert gap.load(only).ref.packed().meta["key"] == "other"


def test_bytes_come_out_where_the_signature_says_so(tmp_path: Path) -> None:
    model = gap.load(saved(tmp_path), signature_key="shout")
    block = {"text": np.array([b"a\xff", b"b"], object)}
    as_bytes = model.with_signature(
        gap.Signature((gap.TensorSpec("text", "bytes", ()),), (gap.TensorSpec("loud", "bytes", ()),))
    )
    predictor = TensorFlowAdapter().open(bundle.locate(as_bytes.ref), as_bytes.ref.packed(), Runtime())
    assert predictor.predict(block)["loud"].tolist() == [b"A\xff", b"B"]


def test_an_unknown_output_is_said(tmp_path: Path) -> None:
    model = gap.load(saved(tmp_path))
    wrong = model.with_signature(gap.Signature(model.signature.inputs, (gap.TensorSpec("z"),)))
    predictor = TensorFlowAdapter().open(bundle.locate(wrong.ref), wrong.ref.packed(), Runtime())
    with pytest.raises(ModelOutputError, match=r"returned (best, y|y, best), without z, which the signature names"):
        predictor.predict({"x": X})


def test_other_dtypes_are_cast_to_the_signature(tmp_path: Path) -> None:
    model = gap.load(saved(tmp_path))
    predictor = TensorFlowAdapter().open(bundle.locate(model.ref), model.ref.packed(), Runtime())
    np.testing.assert_array_equal(predictor.predict({"x": X.astype(np.float64)})["y"], predictor.predict({"x": X})["y"])


class Scaled(tf.Module):  # type: ignore[misc]
    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((2, 3), tf.bfloat16, name="x"), tf.TensorSpec((), tf.bool, name="twice")]
    )
    def scale(self, x: Any, twice: Any) -> Any:
        return {"y": tf.cond(twice, lambda: x * 2, lambda: x), "scalar": tf.reduce_sum(x)}


def test_scalar_inputs_are_constants_and_a_fixed_batch_is_told(tmp_path: Path) -> None:
    net = Scaled()
    path = saved(tmp_path, net, serving_default=net.scale)
    with pytest.raises(ModelFormatError, match=r"Input `twice` .* is a single value.*constants=\{'twice': value\}"):
        gap.load(path)
    with pytest.raises(ConfigurationError, match=r"constants names thrice; the inputs of .* are twice, x"):
        gap.load(path, constants={"thrice": 1})
    model = gap.load(path, constants={"twice": True})
    assert model.signature == gap.Signature(
        (gap.TensorSpec("x", "bfloat16", (3,)),), (gap.TensorSpec("y", "bfloat16", (3,)),), batch=2
    )
    predictor = TensorFlowAdapter().open(bundle.locate(model.ref), model.ref.packed(), Runtime())
    found = predictor.predict({"x": np.ones((2, 3), np.float32)})
    assert (found["y"].dtype, found["y"].tolist()) == (np.float32, [[2.0] * 3] * 2)


def test_objects_without_a_signature_are_refused_with_the_remedy() -> None:
    class Bare(tf.Module):  # type: ignore[misc]
        @tf.function  # type: ignore[untyped-decorator]
        def call(self, x: Any) -> Any:
            return x

    for source in (Bare(), tf.function(lambda x: x)):
        with pytest.raises(ConfigurationError, match=r"has no signature, .*@tf\.function\(input_signature=\[tf\.TensorSpec"):
            gap.load(source)


def test_a_loaded_model_and_a_concrete_function_are_sources(tmp_path: Path) -> None:
    loaded = gap.load(tf.saved_model.load(str(saved(tmp_path))))
    assert (loaded.adapter, [s.name for s in loaded.signature.outputs]) == ("tensorflow", ["best", "y"])
    concrete = gap.load(NET.score.get_concrete_function())
    assert (concrete.ref.format, [s.name for s in concrete.signature.inputs]) == ("function", ["x"])


@pytest.mark.parametrize("missing", ["variables", "variables/variables.index", "variables/variables.data-00000-of-00001"])
def test_missing_weights_are_refused_on_the_driver(missing: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    shutil.rmtree(path / missing) if missing == "variables" else (path / missing).unlink()
    with pytest.raises(ModelFormatError, match=r"is a SavedModel whose weights are missing.*copied only in part"):
        gap.load(path)


@pytest.mark.parametrize("size", [0, 40, 3000])
def test_a_truncated_graph_is_refused_on_the_driver(size: int, tmp_path: Path) -> None:
    file = saved(tmp_path) / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelFormatError, match=r"saved_model\.pb (cannot be read as a SavedModel|holds no graph)"):
        gap.load(file.parent)


def test_truncated_weights_are_refused_when_the_model_is_opened(tmp_path: Path) -> None:
    path = saved(tmp_path)
    file = next((path / "variables").glob("variables.data-*"))
    file.write_bytes(file.read_bytes()[:-8])
    ref = gap.load(path).ref
    with pytest.raises(ModelFormatError, match=r"The SavedModel .* cannot be loaded: .*and with the loader of TensorFlow 1"):
        TensorFlowAdapter().open(bundle.locate(ref), ref.packed(), Runtime())


def test_a_graph_without_variables_needs_no_folder_for_them(tmp_path: Path) -> None:
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 2), name="x")
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "old"), {"x": x}, {"y": x * 3})
    shutil.rmtree(tmp_path / "old/variables", ignore_errors=True)
    model = gap.load(tmp_path / "old")
    predictor = TensorFlowAdapter().open(bundle.locate(model.ref), model.ref.packed(), Runtime())
    assert predictor.predict({"x": np.array([[1.0, 2.0]])})["y"].tolist() == [[3.0, 6.0]]


def test_importing_sets_threads_hides_gpus_and_leaves_the_environment() -> None:
    code = """
import os
before = dict(os.environ)
from sparkgap.models.base import Runtime
from sparkgap.models.tensorflow import import_tensorflow
tf = import_tensorflow(Runtime(threads=3))
assert {k: v for k, v in os.environ.items() if k.startswith("TF_CPP")} == {}
threads = tf.config.threading
assert (threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads()) == (3, 1)
assert tf.config.get_visible_devices("GPU") == []
tf.constant(1)
import_tensorflow(Runtime(threads=1))  # too late to change: left as it is
assert threads.get_intra_op_parallelism_threads() == 3
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_claims_the_process_family_of_tensorflow(tmp_path: Path) -> None:
    assert TensorFlowAdapter().family(gap.load(saved(tmp_path)).ref.packed()) == "tensorflow"
