from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import xgboost
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

import sparkgap as gap
from sparkgap._errors import ConfigurationError, MissingDependencyError, ModelFormatError, UntrustedModelError
from sparkgap.models.base import Packed, Predictor, Runtime
from sparkgap.models.sklearn import SklearnAdapter
from sparkgap.tensors.spec import Block, Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
TEXTS = np.array(["good film", "bad film", "good good", "bad bad bad", "a film"], object)
TABLE = pd.DataFrame({"city": ["Bern", "Wien", "Bern", "Rom"], "age": [10.0, 20.0, 30.0, 40.0], "n": [1, 2, 3, 4]})


def encoder() -> ColumnTransformer:
    return ColumnTransformer(
        [("one", OneHotEncoder(handle_unknown="ignore"), ["city"]), ("scale", StandardScaler(), ["age", "n"])]
    )


def lengths(frame: pd.DataFrame) -> np.ndarray:
    return frame["city"].str.len().to_numpy()[:, None]


class Conformance(ModelAdapterConformance):
    def adapter(self) -> SklearnAdapter:
        return SklearnAdapter()

    def block(self) -> Block:
        return {"x": X[::20].copy()}


class TestProbabilities(Conformance):
    def source(self, folder: Path) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)

    def options(self) -> dict[str, Any]:
        return {"method": "predict_proba"}

    def expected(self, source: Any, block: Block) -> Block:
        return {"probability": source.predict_proba(block["x"])}


class TestLabels(Conformance):
    def source(self, folder: Path) -> Any:
        return RandomForestClassifier(10, random_state=0, n_jobs=-1).fit(X, NAMES)

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(block["x"])}


class TestFile(Conformance):
    def source(self, folder: Path) -> Path:
        joblib.dump(PCA(2).fit(X), folder / "pca.joblib", compress=3)
        return folder / "pca.joblib"

    def expected(self, source: Path, block: Block) -> Block:
        return {"features": joblib.load(source).transform(block["x"])}


class TestMixedColumns(Conformance):
    def source(self, folder: Path) -> Any:
        return make_pipeline(encoder(), LinearRegression()).fit(TABLE, [1.0, 2.0, 3.0, 5.0])

    def block(self) -> Block:
        return {
            "city": np.array(["Rom", "Bern", "Oslo", "Wien"], object),
            "age": np.array([1.0, 2.0, 3.0, 4.0]),
            "n": np.array([4.0, 3.0, 2.0, 1.0]),
        }

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(pd.DataFrame(block))}


class TestTexts(Conformance):
    def source(self, folder: Path) -> Any:
        return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [1, 0, 1, 0, 1])

    def block(self) -> Block:
        return {"x": TEXTS.copy()}

    def expected(self, source: Any, block: Block) -> Block:
        return {"prediction": source.predict(block["x"])}


def pack(source: Any, folder: Path, **options: Any) -> Packed:
    folder.mkdir(exist_ok=True)
    return SklearnAdapter().pack(source, folder, options)


def opened(source: Any, folder: Path, threads: int = 1, **options: Any) -> Predictor:
    packed = pack(source, folder, **options)
    return SklearnAdapter().open(folder, packed, Runtime(threads=threads))


def test_numbers_are_one_tensor(tmp_path: Path) -> None:
    packed = pack(LogisticRegression(max_iter=500).fit(X, Y), tmp_path / "a")
    assert packed.signature == Signature((TensorSpec("x", "float64", (4,)),))


@pytest.mark.parametrize(
    ("method", "output"),
    [("predict", "prediction"), ("predict_proba", "probability"), ("decision_function", "decision"), (None, "prediction")],
)
def test_outputs_are_named_by_the_method(method: str | None, output: str, tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(X, Y)
    options = {} if method is None else {"method": method}
    out = opened(model, tmp_path / "a", **options).predict({"x": X[:5]})
    assert list(out) == [output]
    np.testing.assert_array_equal(out[output], getattr(model, method or "predict")(X[:5]))


def test_score_samples_and_transform(tmp_path: Path) -> None:
    mixture = GaussianMixture(2, random_state=0).fit(X)
    out = opened(mixture, tmp_path / "a", method="score_samples").predict({"x": X[:5]})
    np.testing.assert_array_equal(out["score"], mixture.score_samples(X[:5]))
    scaler = StandardScaler().fit(X)
    out = opened(scaler, tmp_path / "b").predict({"x": X[:5]})
    np.testing.assert_array_equal(out["features"], scaler.transform(X[:5]))


@pytest.mark.parametrize("kind", ["toarray", "pandas"])
def test_sparse_and_frame_outputs_become_arrays(kind: str, tmp_path: Path) -> None:
    one_hot = OneHotEncoder(sparse_output=kind == "toarray").fit(TABLE[["n"]])
    if kind == "pandas":
        one_hot.set_output(transform="pandas")
    out = opened(one_hot, tmp_path / "a").predict({"x": np.array([[2.0], [4.0]])})
    assert out["features"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_several_targets_give_an_output_each(tmp_path: Path) -> None:
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, np.stack([Y, Y == 0], axis=1))
    out = opened(model, tmp_path / "a", method="predict_proba").predict({"x": X[:5]})
    assert {k: v.shape for k, v in out.items()} == {"probability_0": (5, 3), "probability_1": (5, 2)}
    assert opened(model, tmp_path / "b").predict({"x": X[:5]})["prediction"].shape == (5, 2)


@pytest.mark.filterwarnings("error")
def test_an_estimator_fitted_with_a_frame_gets_one(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = LogisticRegression(max_iter=500).fit(frame, Y)
    packed = pack(model, tmp_path / "a")
    assert packed.signature.inputs == (TensorSpec("x", "float64", (4,)),)
    out = SklearnAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": X[:5]})
    assert out["prediction"].tolist() == model.predict(frame[:5]).tolist()


@pytest.mark.parametrize(
    ("estimator", "dtypes"),
    [
        (encoder(), ["str", "float64", "float64"]),
        (ColumnTransformer([("one", OneHotEncoder(), [0])], remainder="passthrough"), ["str", "float64", "float64"]),
        (ColumnTransformer([("one", OneHotEncoder(), slice(0, 1))], remainder="drop"), ["str", "float64", "float64"]),
        (ColumnTransformer([("one", OneHotEncoder(), [True, False, True])]), ["str", "float64", "float64"]),
        (ColumnTransformer([("words", TfidfVectorizer(), "city")]), ["str", "float64", "float64"]),
        (OrdinalEncoder(), ["str", "float64", "float64"]),
        (FeatureUnion([("a", OrdinalEncoder()), ("b", OneHotEncoder())]), ["str", "float64", "float64"]),
        (
            ColumnTransformer([("p", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["n", "city"])]),
            ["str", "float64", "float64"],
        ),
        (
            ColumnTransformer([("fill", SimpleImputer(strategy="constant", fill_value="-"), ["city"])]),
            [None, "float64", "float64"],
        ),
        (
            ColumnTransformer([("size", FunctionTransformer(lengths), ["city"]), ("age", StandardScaler(), ["age"])]),
            [None, "float64", "float64"],
        ),
    ],
    ids=lambda v: None if isinstance(v, list) else type(v).__name__,
)
def test_strings_make_one_tensor_a_feature(estimator: Any, dtypes: list[str], tmp_path: Path) -> None:
    estimator.fit(TABLE)
    packed = pack(estimator, tmp_path / "a")
    assert [s.dtype for s in packed.signature.inputs] == dtypes
    assert [(s.name, s.shape) for s in packed.signature.inputs] == [("city", ()), ("age", ()), ("n", ())]
    block = {"city": TABLE["city"].to_numpy(object), "age": TABLE["age"].to_numpy(), "n": TABLE["n"].to_numpy()}
    out = SklearnAdapter().open(tmp_path / "a", packed, Runtime()).predict(block)["features"]
    direct = estimator.transform(TABLE)
    assert out.tolist() == (direct.toarray() if hasattr(direct, "toarray") else direct).tolist()


def test_searches_and_wrappers_are_looked_into(tmp_path: Path) -> None:
    table, target = pd.concat([TABLE] * 3), [1.0, 2.0, 3.0, 5.0] * 3
    pipeline = make_pipeline(encoder(), LinearRegression())
    search = GridSearchCV(pipeline, {"linearregression__fit_intercept": [True, False]}, cv=2).fit(table, target)
    wrapped = TransformedTargetRegressor(pipeline, func=np.log1p, inverse_func=np.expm1).fit(table, target)
    for number, model in enumerate((search, wrapped)):
        packed = pack(model, tmp_path / str(number))
        assert [(s.name, s.dtype) for s in packed.signature.inputs] == [("city", "str"), ("age", "float64"), ("n", "float64")]
        block = {c: TABLE[c].to_numpy() for c in TABLE}
        out = SklearnAdapter().open(tmp_path / str(number), packed, Runtime()).predict(block)
        np.testing.assert_allclose(out["prediction"], model.predict(TABLE), rtol=1e-12)


def test_strings_without_names(tmp_path: Path) -> None:
    strings = np.array([["a", "u"], ["b", "v"]], object)
    packed = pack(OrdinalEncoder().fit(strings), tmp_path / "a")
    assert packed.signature.inputs == (TensorSpec("x", "str", (2,)),)
    out = SklearnAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": strings[::-1].astype("U1")})
    assert out["features"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    mixed = OrdinalEncoder().fit(np.array([["a", 5.0], ["b", 7.0]], object))
    packed = pack(mixed, tmp_path / "b")
    assert packed.signature.inputs == (TensorSpec("x0", "str", ()), TensorSpec("x1", "float64", ()))
    out = (
        SklearnAdapter()
        .open(tmp_path / "b", packed, Runtime())
        .predict({"x0": np.array(["b", "a"], object), "x1": np.array([5.0, 7.0])})
    )
    assert out["features"].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_functions_of_a_notebook_travel(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(lambda x: x[:, :2] * 2), StandardScaler()).fit(X)
    out = opened(model, tmp_path / "a").predict({"x": X[:5]})
    np.testing.assert_array_equal(out["features"], model.transform(X[:5]))


class Probe(BaseEstimator):
    """Reports the limits that it runs under."""

    def fit(self, x: Any, y: Any = None) -> Probe:
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        blas = [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        names = joblib.Parallel(n_jobs=4)(joblib.delayed(threading.get_ident)() for _ in range(8))
        return np.array([[max(blas), len(set(names))]] * len(x))


def test_threads_are_limited_and_no_processes_are_started(tmp_path: Path) -> None:
    model = Probe().fit(X)
    before = [p["num_threads"] for p in threadpoolctl.threadpool_info()]
    for threads in (1, 2):
        out = opened(model, tmp_path / str(threads), threads=threads).predict({"x": X[:2]})
        assert out["prediction"].tolist() == [[threads, 1]] * 2
    assert [p["num_threads"] for p in threadpoolctl.threadpool_info()][: len(before)] == before


def test_boosters_in_a_pipeline_get_the_threads_of_the_task(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=2, n_jobs=7)).fit(X, Y)
    predictor = opened(model, tmp_path / "a", threads=2)
    assert predictor._call.__self__[-1].n_jobs == 2
    assert model[-1].n_jobs == 7
    assert predictor.predict({"x": X[:9]})["prediction"].tolist() == model.predict(X[:9]).tolist()


def test_boosting_estimators_are_left_to_their_adapters() -> None:
    assert SklearnAdapter().match(xgboost.XGBClassifier()) is None
    assert SklearnAdapter().match(lightgbm.LGBMRegressor()) is None
    assert SklearnAdapter().match(make_pipeline(xgboost.XGBClassifier())) == "estimator"


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (LogisticRegression(), ModelFormatError, "The LogisticRegression is not fitted.*Call its fit first"),
        (make_pipeline(StandardScaler(), PCA()), ModelFormatError, "The Pipeline is not fitted"),
        (DBSCAN().fit(X), ModelFormatError, "DBSCAN has none of the methods predict, .*cannot be applied to new rows"),
    ],
)
def test_estimators_that_cannot_be_applied_are_refused(estimator: Any, error: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pack(estimator, tmp_path / "a")


def test_a_method_that_the_estimator_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"LinearRegression has no method 'predict_proba' here.*one of: predict"):
        pack(LinearRegression().fit(X, Y), tmp_path / "a", method="predict_proba")


def test_an_estimator_that_does_not_pickle_is_refused(tmp_path: Path) -> None:
    lock = threading.Lock()
    model = FunctionTransformer(lambda x: (lock, x)[1]).fit(X)
    with pytest.raises(ModelFormatError, match=r"The FunctionTransformer cannot be sent to executors: .*lock"):
        pack(model, tmp_path / "a")


def test_pickle_files_need_trust(tmp_path: Path) -> None:
    joblib.dump(PCA(2).fit(X), tmp_path / "pca.pkl")
    with pytest.raises(UntrustedModelError, match=r"pca\.pkl is a .*fitted estimator, which can run any code"):
        gap.load(tmp_path / "pca.pkl")
    out = gap.load(tmp_path / "pca.pkl", trust=True).predict({"x": X[:3]})
    assert out["features"].shape == (3, 2)


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    joblib.dump({"a": 1}, tmp_path / "a.pkl")
    with pytest.raises(ModelFormatError, match=r"a\.pkl holds a builtins\.dict, no scikit-learn estimator"):
        pack(tmp_path / "a.pkl", tmp_path / "p")


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"cnosuchmodule\nThing\n.")
    with pytest.raises(MissingDependencyError, match=r"a\.pkl needs a Python module .*No module named 'nosuchmodule'"):
        pack(tmp_path / "a.pkl", tmp_path / "p")
