from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_iris

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models._ubjson import check_whole
from sparkgap.models.base import Packed, Runtime
from sparkgap.models.xgboost import XGBoostAdapter
from sparkgap.tensors.spec import Block, Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X).astype(np.float32)
BINARY = (Y == 1).astype(int)


def booster(objective: str = "binary:logistic", **params: Any) -> xgboost.Booster:
    label = Y if objective.startswith("multi") else BINARY
    if objective.startswith("multi"):
        params["num_class"] = 3
    params = {"objective": objective, "max_depth": 3, **params}
    return xgboost.train(params, xgboost.DMatrix(HOLES, label), num_boost_round=6)


class Conformance(ModelAdapterConformance):
    def adapter(self) -> XGBoostAdapter:
        return XGBoostAdapter()

    def block(self) -> Block:
        return {"x": HOLES[::17].copy()}


class TestBooster(Conformance):
    def source(self, folder: Path) -> Any:
        return booster()

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(xgboost.DMatrix(block["x"]))}


class TestClassifier(Conformance):
    def source(self, folder: Path) -> Any:
        return xgboost.XGBClassifier(n_estimators=5).fit(HOLES, Y)

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(block["x"])}


class TestJsonFile(Conformance):
    def source(self, folder: Path) -> Path:
        booster("multi:softprob").save_model(folder / "model.json")
        return folder / "model.json"

    def options(self) -> dict[str, Any]:
        return {"method": "predict_proba"}

    def expected(self, source: Path, block: Block) -> Block:
        return {"probability": xgboost.Booster(model_file=source).predict(xgboost.DMatrix(block["x"]))}


class TestUbjFile(Conformance):
    def source(self, folder: Path) -> Path:
        xgboost.XGBRegressor(n_estimators=5).fit(HOLES, Y).save_model(folder / "model.ubj")
        return folder / "model.ubj"

    def expected(self, source: Path, block: Block) -> Block:
        model = xgboost.XGBRegressor()
        model.load_model(source)
        return {"prediction": model.predict(block["x"])}


def pack(source: Any, folder: Path, **options: Any) -> Packed:
    folder.mkdir(exist_ok=True)
    return XGBoostAdapter().pack(source, folder, options)


def run(source: Any, folder: Path, x: np.ndarray = HOLES, **options: Any) -> np.ndarray:
    packed = pack(source, folder, **options)
    block = XGBoostAdapter().open(packed.file or folder, packed, Runtime()).predict({"x": x})
    (out,) = block.values()
    return out


def test_signature_is_one_tensor_of_features(tmp_path: Path) -> None:
    assert pack(booster(), tmp_path / "a").signature == Signature((TensorSpec("x", "float32", (4,)),))


def test_methods_of_a_booster(tmp_path: Path) -> None:
    model, data = booster(), xgboost.DMatrix(HOLES)
    p = model.predict(data)
    np.testing.assert_array_equal(run(model, tmp_path / "a", method="predict"), p)
    np.testing.assert_array_equal(run(model, tmp_path / "b", method="predict_proba"), np.stack([1 - p, p], 1))
    np.testing.assert_array_equal(run(model, tmp_path / "c", method="margin"), model.predict(data, output_margin=True))
    leaf = run(model, tmp_path / "d", method="leaf")
    assert leaf.dtype == np.int32
    np.testing.assert_array_equal(leaf, model.predict(data, pred_leaf=True))


@pytest.mark.parametrize("label", [BINARY, Y], ids=["binary", "classes"])
def test_methods_of_a_classifier(label: np.ndarray, tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=5).fit(HOLES, label)
    np.testing.assert_array_equal(run(model, tmp_path / "a"), model.predict(HOLES))
    assert run(model, tmp_path / "a2").dtype.kind == "i"
    np.testing.assert_array_equal(run(model, tmp_path / "b", method="predict_proba"), model.predict_proba(HOLES))
    np.testing.assert_array_equal(run(model, tmp_path / "c", method="margin"), model.predict(HOLES, output_margin=True))
    np.testing.assert_array_equal(run(model, tmp_path / "d", method="leaf"), model.apply(HOLES))


def test_a_file_of_a_classifier_gives_labels(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=5).fit(HOLES, Y)
    model.save_model(tmp_path / "model.json")
    np.testing.assert_array_equal(run(tmp_path / "model.json", tmp_path / "a"), model.predict(HOLES))


def test_early_stopping_is_kept(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=60, learning_rate=1.0, early_stopping_rounds=1)
    noise = np.random.default_rng(0).permutation(BINARY)
    model.fit(HOLES[::2], BINARY[::2], eval_set=[(HOLES[1::2], noise[1::2])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    np.testing.assert_array_equal(run(model, tmp_path / "a", method="predict_proba"), model.predict_proba(HOLES))


def test_rankers_and_forests(tmp_path: Path) -> None:
    ranker = xgboost.XGBRanker(n_estimators=3).fit(HOLES, Y, qid=np.repeat(np.arange(15), 10))
    np.testing.assert_array_equal(run(ranker, tmp_path / "a"), ranker.predict(HOLES))
    forest = xgboost.XGBRFClassifier(n_estimators=3).fit(HOLES, BINARY)
    np.testing.assert_array_equal(run(forest, tmp_path / "b"), forest.predict(HOLES))


def test_linear_boosters(tmp_path: Path) -> None:
    model = booster(booster="gblinear", max_depth=None)
    np.testing.assert_array_equal(run(model, tmp_path / "a", X), model.predict(xgboost.DMatrix(X)))
    with pytest.raises(ConfigurationError, match="method 'leaf' needs trees, and this model is linear"):
        pack(model, tmp_path / "b", method="leaf")


def test_models_with_feature_names_take_arrays(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(HOLES, columns=list("abcd"))
    model = xgboost.XGBClassifier(n_estimators=3).fit(frame, Y)
    np.testing.assert_array_equal(run(model, tmp_path / "a"), model.predict(frame))
    np.testing.assert_array_equal(run(model.get_booster(), tmp_path / "b", method="leaf"), model.apply(frame))


def test_threads_follow_the_runtime(tmp_path: Path) -> None:
    for number, model in enumerate((booster(), xgboost.XGBClassifier(n_estimators=2, n_jobs=7).fit(HOLES, Y))):
        packed = pack(model, tmp_path / str(number))
        predictor = XGBoostAdapter().open(tmp_path / str(number), packed, Runtime(threads=2))
        assert '"nthread":"2"' in predictor._booster.save_config()


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (xgboost.XGBClassifier(), {}, ModelFormatError, "The XGBClassifier is not fitted.*Call its fit first"),
        (booster(), {"method": "nix"}, ConfigurationError, "XGBoost has no method 'nix'. Set method to one of: predict, "),
        (
            booster("reg:squarederror"),
            {"method": "predict_proba"},
            ConfigurationError,
            "needs a classifier, and this model's objective is reg:squarederror",
        ),
    ],
)
def test_what_cannot_run_is_refused(source: Any, options: Any, error: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pack(source, tmp_path / "a", **options)


def test_files_are_told_by_their_content(tmp_path: Path) -> None:
    booster().save_model(tmp_path / "model.json")
    shutil.copy(tmp_path / "model.json", tmp_path / "model.model")
    (tmp_path / "other.json").write_text('{"class_name": "Sequential"}')
    assert XGBoostAdapter().match(tmp_path / "model.model") == "file"
    assert XGBoostAdapter().match(tmp_path / "other.json") is None
    assert gap.load(tmp_path / "model.model").adapter == "xgboost"


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_truncated_files_do_not_crash_the_process(suffix: str, tmp_path: Path) -> None:
    booster().save_model(tmp_path / f"model.{suffix}")
    data = (tmp_path / f"model.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for size in (30, 100, 2000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelFormatError, match=rf"cut\.{suffix} cannot be read as an XGBoost model.*truncated"):
            gap.load(path)


def test_every_truncation_of_ubjson_is_found() -> None:
    data = bytes(booster().save_raw("ubj"))
    check_whole(data)
    for size in range(len(data)):
        with pytest.raises(ValueError, match=r"it ends after|is missing|no type"):
            check_whole(data[:size])
    with pytest.raises(ValueError, match="1 bytes are left after the end"):
        check_whole(data + b"}")


@pytest.mark.parametrize(
    "data",
    [b"{i\x01aSi\x02hi}", b"[$U#i\x03abc", b"[#i\x02Ti\x05", b"[TFZ]", b"{#i\x01i\x01ad\0\0\0\0", b"[$S#U\x02i\x01ai\x00"],
)
def test_ubjson_of_every_shape_is_walked(data: bytes) -> None:
    check_whole(data)
    with pytest.raises(ValueError, match=r"it ends after|is missing|no type"):
        check_whole(data[:-1])


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a length is -1"):
        check_whole(b"Si\xffabc")
