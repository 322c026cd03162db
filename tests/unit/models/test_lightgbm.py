from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.datasets import load_iris

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models.base import Packed, Runtime
from sparkgap.models.lightgbm import LightGBMAdapter
from sparkgap.tensors.spec import Block, Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance

X, Y = load_iris(return_X_y=True)
HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
BINARY = (Y == 1).astype(int)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]


def booster(objective: str = "binary") -> lightgbm.Booster:
    label = Y if objective == "multiclass" else BINARY
    params = {"objective": objective, "num_class": 3 if objective == "multiclass" else 1, "verbose": -1}
    return lightgbm.train(params, lightgbm.Dataset(HOLES, label), num_boost_round=5)


def classifier(label: np.ndarray = NAMES, **options: Any) -> lightgbm.LGBMClassifier:
    return lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, **options).fit(HOLES, label)


class Conformance(ModelAdapterConformance):
    def adapter(self) -> LightGBMAdapter:
        return LightGBMAdapter()

    def block(self) -> Block:
        return {"x": HOLES[::17].copy()}


class TestBooster(Conformance):
    def source(self, folder: Path) -> Any:
        return booster()

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(block["x"])}


class TestClassifier(Conformance):
    def source(self, folder: Path) -> Any:
        return classifier()

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(block["x"])}


class TestFile(Conformance):
    def source(self, folder: Path) -> Path:
        booster("multiclass").save_model(folder / "model.txt")
        return folder / "model.txt"

    def options(self) -> dict[str, Any]:
        return {"method": "predict_proba"}

    def expected(self, source: Path, block: Block) -> Block:
        return {"probability": lightgbm.Booster(model_file=source).predict(block["x"])}

    def broken_files(self, source: Path, folder: Path) -> list[Path]:
        text = source.read_text()
        paths = [folder / f"{size}.txt" for size in (10, 100, len(text) // 2, text.index("end of trees"))]
        for path in paths:
            path.write_text(text[: int(path.stem)])
        return paths


def pack(source: Any, folder: Path, **options: Any) -> Packed:
    folder.mkdir(exist_ok=True)
    return LightGBMAdapter().pack(source, folder, options)


def run(source: Any, folder: Path, **options: Any) -> np.ndarray:
    packed = pack(source, folder, **options)
    block = LightGBMAdapter().open(packed.file or folder, packed, Runtime()).predict({"x": HOLES})
    (out,) = block.values()
    return out


def test_signature_is_one_tensor_of_features(tmp_path: Path) -> None:
    assert pack(booster(), tmp_path / "a").signature == Signature((TensorSpec("x", "float64", (4,)),))


def test_methods_of_a_booster(tmp_path: Path) -> None:
    model = booster()
    p = model.predict(HOLES)
    np.testing.assert_array_equal(run(model, tmp_path / "a"), p)
    np.testing.assert_array_equal(run(model, tmp_path / "b", method="predict_proba"), np.stack([1 - p, p], 1))
    np.testing.assert_array_equal(run(model, tmp_path / "c", method="margin"), model.predict(HOLES, raw_score=True))
    np.testing.assert_array_equal(run(model, tmp_path / "d", method="leaf"), model.predict(HOLES, pred_leaf=True))


@pytest.mark.parametrize("label", [BINARY, BINARY.astype(bool), Y + 5, NAMES], ids=["binary", "bool", "int", "str"])
def test_methods_of_a_classifier(label: np.ndarray, tmp_path: Path) -> None:
    model = classifier(label)
    got = run(model, tmp_path / "a")
    assert got.dtype.kind == model.predict(HOLES).dtype.kind
    assert got.tolist() == model.predict(HOLES).tolist()
    np.testing.assert_array_equal(run(model, tmp_path / "b", method="predict_proba"), model.predict_proba(HOLES))
    raw = model.predict(HOLES, raw_score=True)
    np.testing.assert_array_equal(run(model, tmp_path / "c", method="margin"), raw)


def test_a_loss_function_of_the_users_own_gives_raw_values(tmp_path: Path) -> None:
    model = classifier(BINARY, objective=squares)
    got = run(model, tmp_path / "a")
    np.testing.assert_array_equal(got, model.predict(HOLES))
    with pytest.raises(ConfigurationError, match="this model's objective is none"):
        pack(model, tmp_path / "b", method="predict_proba")


def squares(label: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return predicted - label, np.ones_like(predicted)


def test_early_stopping_is_kept(tmp_path: Path) -> None:
    train = lightgbm.Dataset(HOLES[::2], BINARY[::2])
    held_out = lightgbm.Dataset(HOLES[1::2], np.random.default_rng(0).permutation(BINARY)[1::2], reference=train)
    model = lightgbm.train(
        {"objective": "binary", "learning_rate": 1.0, "verbose": -1},
        train,
        num_boost_round=60,
        valid_sets=[held_out],
        callbacks=[lightgbm.early_stopping(2, verbose=False)],
        keep_training_booster=True,
    )
    assert model.best_iteration < model.current_iteration()
    np.testing.assert_array_equal(run(model, tmp_path / "a"), model.predict(HOLES))


def test_regressors_give_their_value(tmp_path: Path) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(HOLES, Y)
    np.testing.assert_array_equal(run(model, tmp_path / "a"), model.predict(HOLES))


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lightgbm.LGBMClassifier, {}, ModelFormatError, "The LGBMClassifier is not fitted.*Call its fit first"),
        (booster, {"method": "nix"}, ConfigurationError, "LightGBM has no method 'nix'. Set method to one of: predict, "),
        (
            lambda: booster("regression"),
            {"method": "predict_proba"},
            ConfigurationError,
            "needs a classifier, and this model's objective is regression",
        ),
    ],
)
def test_what_cannot_run_is_refused(make: Any, options: Any, error: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pack(make(), tmp_path / "a", **options)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.6, 0.75])
def test_truncated_files_do_not_abort_the_process(part: float, tmp_path: Path) -> None:
    text = booster("multiclass").model_to_string()
    path = tmp_path / "cut.txt"
    path.write_text(text[: int(len(text) * part)])
    with pytest.raises(ModelFormatError, match=r"cut\.txt cannot be read as a LightGBM model: .*truncated or damaged"):
        gap.load(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    text = booster("multiclass").model_to_string()
    at = text.index("Tree=3")
    (tmp_path / "hole.txt").write_text(text[:at] + text[at + 40 :])
    with pytest.raises(ModelFormatError, match=r"hole\.txt cannot be read.*bytes of trees where its header says"):
        pack(tmp_path / "hole.txt", tmp_path / "a")


def test_files_of_another_system_are_read(tmp_path: Path) -> None:
    model = booster("multiclass")
    (tmp_path / "dos.txt").write_bytes(model.model_to_string().replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(run(tmp_path / "dos.txt", tmp_path / "a"), model.predict(HOLES))
    (tmp_path / "notes.txt").write_text("trees\n")
    assert LightGBMAdapter().match(tmp_path / "notes.txt") is None
