from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError, UntrustedModelError
from sparkgap.models import bundle
from sparkgap.models.base import Runtime
from sparkgap.models.keras import BACKENDS, KerasAdapter, import_keras
from sparkgap.models.process import ProcessPredictor
from sparkgap.testing import ModelAdapterConformance

# Keras keeps the backend of its first import: the others are tested by running this file again (see below).
BACKEND = os.environ.get("KERAS_BACKEND", "jax")
keras = import_keras(BACKEND, Runtime(threads=2))
layers = keras.layers

X = np.arange(24, dtype=np.float32).reshape(6, 4) / 5
OTHERS = [b for b in BACKENDS if b != BACKEND]


def plain() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            layers.Dense(8, activation="gelu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3, name="scores"),
        ]
    )


def branched() -> Any:
    """Two inputs, an unnamed one of integers, and outputs in a dict whose keys are not sorted."""
    keras.utils.set_random_seed(2)
    numbers = keras.Input((4,), name="numbers")
    words = keras.Input((None,), dtype="int32", name="words")
    mean = layers.GlobalAveragePooling1D()(layers.Embedding(10, 5)(words))
    both = layers.Concatenate()([numbers, mean])
    return keras.Model(
        {"numbers": numbers, "words": words},
        {
            "wide": layers.Dense(4)(both),
            "narrow": layers.Dense(1)(both),
            "image": layers.Reshape((3, 3, 1))(layers.Dense(9)(both)),
        },
    )


class Scale(layers.Layer):  # type: ignore[misc]
    """Not part of Keras, and not registered."""

    def __init__(self, by: float = 3.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by = by

    def call(self, x: Any) -> Any:
        return x * self.by

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "by": self.by}


@keras.saving.register_keras_serializable("mine")  # type: ignore[untyped-decorator]
class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)
        self.dropout = layers.Dropout(0.5)

    def call(self, first: Any, training: bool = False) -> Any:
        return {"out": self.dropout(self.dense(first), training=training)}


def direct(model: Any, block: Any) -> dict[str, np.ndarray]:
    found = model(block, training=False)
    return {name: keras.ops.convert_to_numpy(found[name]) for name in sorted(found)}


class Conformance(ModelAdapterConformance):
    def adapter(self) -> KerasAdapter:
        return KerasAdapter()

    def block(self) -> dict[str, np.ndarray]:
        return {"x": X.copy()}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        model = keras.saving.load_model(source) if isinstance(source, Path) else source
        return {"scores": keras.ops.convert_to_numpy(model(block["x"], training=False))}


class TestModel(Conformance):
    def source(self, folder: Path) -> Any:
        return plain()


class TestFile(Conformance):
    def source(self, folder: Path) -> Path:
        plain().save(folder / "net.keras")
        return folder / "net.keras"


class TestOldFile(Conformance):
    def source(self, folder: Path) -> Path:
        plain().save(folder / "net.h5")
        return folder / "net.h5"


class TestManyTensors(Conformance):
    def source(self, folder: Path) -> Any:
        return branched()

    def block(self) -> dict[str, np.ndarray]:
        return {"numbers": X.copy(), "words": (np.arange(42) % 10).reshape(6, 7).astype(np.int32)}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return direct(source, block)


class TestOwnLayer(Conformance):
    def source(self, folder: Path) -> Any:
        return keras.Sequential([keras.Input((4,), name="x"), Scale(2.5, name="scores")])


class TestSubclassed(Conformance):
    def source(self, folder: Path) -> Any:
        keras.utils.set_random_seed(3)
        model = Subclassed()
        model(X)
        return model

    def block(self) -> dict[str, np.ndarray]:
        return {"first": X.copy()}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return direct(source, block["first"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", OTHERS)
def test_all_that_holds_on_another_backend(backend: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    chosen = "TestModel or TestManyTensors or TestSubclassed or once_a_backend"
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_a_signature_is_read_once_a_backend() -> None:
    signature = gap.load(branched()).signature
    assert [(s.name, s.describe()) for s in signature.inputs] == [
        ("numbers", "float32 (batch, 4)"), ("words", "int32 (batch, ?)")
    ]  # fmt: skip
    assert [(s.name, s.describe()) for s in signature.outputs] == [
        ("image", "float32 (batch, 3, 3, 1)"), ("narrow", "float32 (batch, 1)"), ("wide", "float32 (batch, 4)")
    ]  # fmt: skip
    subclassed = Subclassed()
    subclassed(X)
    assert gap.load(subclassed).signature == gap.Signature((gap.TensorSpec("first", None, (4,)),), ())


def test_other_dtypes_are_cast_once_a_backend() -> None:
    ref = gap.load(plain()).ref
    predictor = KerasAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    np.testing.assert_array_equal(
        predictor.predict({"x": X.astype(np.float64)})["scores"], predictor.predict({"x": X})["scores"]
    )
    assert predictor.predict({"x": X[:0]})["scores"].shape == (0, 3)


def test_half_precision_comes_out_as_float32_once_a_backend() -> None:
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(2, dtype="bfloat16", name="y")])
    ref = gap.load(model).ref
    predictor = KerasAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    found = predictor.predict({"x": X})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(X)).astype(np.float32), rtol=1e-2)


def test_outputs_may_be_chosen_and_renamed() -> None:
    model = gap.load(branched())
    block = {"words": np.ones((2, 3), np.int32), "numbers": X[:2]}
    chosen = gap.Signature(tuple(reversed(model.signature.inputs)), (model.signature.outputs[1],))
    renamed = gap.Signature(model.signature.inputs, tuple(gap.TensorSpec(n) for n in "abc"))

    def run(signature: gap.Signature) -> dict[str, np.ndarray]:
        ref = model.with_signature(signature).ref
        return KerasAdapter().open(bundle.locate(ref), ref.packed(), Runtime()).predict(block)

    assert list(run(chosen)) == ["narrow"]
    found = run(renamed)
    assert list(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["b"], run(chosen)["narrow"])


def test_layers_with_several_outputs_get_distinct_names() -> None:
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, layers.LSTM(4, return_state=True, name="lstm")(inputs))
    signature = gap.load(model).signature
    assert [s.name for s in signature.outputs] == ["lstm", "lstm_1", "lstm_2"]


def test_a_file_is_used_in_place_and_its_signature_is_read_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    plain().save(path)
    ref = gap.load(path, backend="torch").ref
    assert ref.path == str(path)
    code = """
import sys
import sparkgap as gap
print(gap.load(sys.argv[1], backend="torch").ref.signature)
assert "keras" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ref.signature


@pytest.mark.parametrize("backend", OTHERS)
def test_another_backend_runs_in_a_process_of_its_own(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    model = plain()
    model.save(path)
    packed = gap.load(path, backend=backend)
    assert KerasAdapter().family(packed.ref.packed()) == ("tensorflow" if backend == "tensorflow" else f"keras-{backend}")
    with pytest.raises(
        ConfigurationError, match=f"Keras runs on its {BACKEND} backend in this process, and the model wants {backend}"
    ):
        KerasAdapter().open(path, packed.ref.packed(), Runtime())
    predictor = ProcessPredictor(packed.ref, Runtime())
    found = predictor.predict({"x": X})["scores"]
    predictor.close()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(X, training=False)), rtol=1e-5, atol=1e-6)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Keras backend 'theano' is not supported.*tensorflow, jax, torch"):
        gap.load(plain(), backend="theano")


def test_the_first_installed_backend_is_taken_where_nothing_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparkgap.models import keras as module

    monkeypatch.setattr(module, "_loaded_backend", lambda: None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert module._backend(None) == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert module._backend(None) == "torch"
    monkeypatch.setattr(module, "_loaded_backend", lambda: "jax")
    assert module._backend(None) == "jax"


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_needs_trust(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Lambda(lambda x: x * 2, output_shape=(4,), name="y")])
    path = tmp_path / f"net.{suffix}"
    model.save(path)
    with pytest.raises(UntrustedModelError, match=r"with Python code in it \(a Lambda layer\), which can run.*trust=True"):
        gap.load(path)
    ref = gap.load(path, trust=True, backend=BACKEND).ref
    assert ref.format == f"{suffix}-code"
    predictor = KerasAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    np.testing.assert_array_equal(predictor.predict({"x": X})["y"], X * 2)
    # an object is the user's own code
    assert gap.load(model).ref.format == "model"


def test_code_that_the_search_misses_is_refused_by_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2, output_shape=(4,))]).save(path)
    monkeypatch.setattr(KerasAdapter, "match", lambda self, source: "keras")
    with pytest.raises(UntrustedModelError, match="holds Python code that Keras loads only where it is trusted"):
        gap.load(path, backend=BACKEND)


def test_a_file_with_classes_of_ones_own_needs_them(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((4,), name="x"), Scale(name="y")]).save(path)
    with pytest.raises(ModelFormatError, match=r"has a class Scale that is not.*custom_objects=\{'Scale': Scale\}"):
        gap.load(path, backend=BACKEND)
    ref = gap.load(path, custom_objects={"Scale": Scale}, backend=BACKEND).ref
    assert ref.path != str(path)
    predictor = KerasAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    np.testing.assert_array_equal(predictor.predict({"x": X})["y"], X * 3)


def test_a_model_that_is_not_built_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"The Keras model `empty` is not built.*model\.build"):
        gap.load(keras.Sequential([layers.Dense(2)], name="empty"))


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    model = plain()
    model.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ModelFormatError, match=r"holds weights without the model.*load_weights\('net\.weights\.h5'\)"):
        gap.load(tmp_path / "net.weights.h5")
    import h5py

    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = X
    with pytest.raises(ModelFormatError, match=r"data\.h5 cannot be read as a Keras model: .*No model config found"):
        gap.load(tmp_path / "data.h5", backend=BACKEND)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("notes.txt", "no model")
    with pytest.raises(ModelFormatError, match=r"other\.keras \(\d+ bytes\) cannot be read as a \.keras file: .*config\.json"):
        gap.load(tmp_path / "other.keras")


def test_weights_that_are_cut_out_of_a_file_are_missed_on_the_driver(tmp_path: Path) -> None:
    plain().save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as old, zipfile.ZipFile(tmp_path / "cut.keras", "w") as new:
        for name in ("config.json", "metadata.json"):
            new.writestr(name, old.read(name))
    with pytest.raises(ModelFormatError, match=r"cut\.keras cannot be read as a Keras model"):
        gap.load(tmp_path / "cut.keras", backend=BACKEND)
