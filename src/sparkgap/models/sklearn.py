"""scikit-learn: fitted estimators and pipelines."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models import _sklearn_columns as columns
from sparkgap.models import pickling
from sparkgap.models._arrays import finished
from sparkgap.models._foreign import reading
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature

_FILE = "estimator.pkl"
_WHY = "to run scikit-learn models"
_SUFFIXES = (".joblib", ".pkl", ".pickle")
# Their estimators are scikit-learn's by inheritance, and have adapters of their own.
_FOREIGN = ("xgboost", "lightgbm")
# Method -> name of its output.
_METHODS = {
    "predict": "prediction",
    "predict_proba": "probability",
    "transform": "features",
    "decision_function": "decision",
    "score_samples": "score",
}


class SklearnAdapter(ModelAdapter):
    """Fitted estimators. Numbers are one tensor ``x`` with an entry a feature; mixed columns one tensor each."""

    name: ClassVar[str] = "sklearn"
    title: ClassVar[str] = "scikit-learn"
    extra: ClassVar[str] = "sklearn"
    requires: ClassVar[tuple[str, ...]] = ("sklearn",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("estimator", "fitted estimator or pipeline object", "found"),
        Format("file", "`.joblib` or `.pkl` file of a fitted estimator", "found", runs_code=True),
    )
    options: ClassVar[Mapping[str, str]] = {
        "method": "predict (default, or transform where there is no predict), predict_proba, transform, "
        "decision_function or score_samples",
    }

    def match(self, source: Any) -> str | None:
        """Take anything that inherits from scikit-learn's estimators, and pickle files."""
        if isinstance(source, Path):
            return "file" if source.suffix.lower() in _SUFFIXES and source.is_file() else None
        bases = type(source).__mro__
        if any(c.__module__.partition(".")[0] in _FOREIGN for c in bases):
            return None
        is_estimator = any((c.__module__, c.__name__) == ("sklearn.base", "BaseEstimator") for c in bases)
        return "estimator" if is_estimator else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Pickle the estimator; what is of a notebook, script or local module by value."""
        estimator = self._load_file(source) if isinstance(source, Path) else source
        _check_fitted(estimator)
        method = _method(estimator, options.get("method"))
        try:
            (folder / _FILE).write_bytes(pickling.dumps(estimator))
        except (pickle.PicklingError, TypeError) as error:
            raise ModelFormatError(
                f"The {type(estimator).__name__} cannot be sent to executors: {error}. Take what cannot be pickled "
                "(locks, files, sessions) out of its steps."
            ) from error
        layout = columns.layout(estimator)
        kind = "file" if isinstance(source, Path) else "estimator"
        return Packed(kind, Signature(layout.inputs()), {"method": method, "layout": layout.to_json()})

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Unpickle the estimator that the user's own driver packed."""
        need("sklearn", extra="sklearn", why=_WHY)
        with reading("The bundle", "a scikit-learn estimator"):
            estimator = pickle.loads((path / _FILE).read_bytes())
        layout = columns.Layout.from_json(packed.meta["layout"])
        return _SklearnPredictor(estimator, packed.meta["method"], layout, packed.signature, runtime.threads)

    def _load_file(self, path: Path) -> Any:
        need("sklearn", extra="sklearn", why=_WHY)
        with reading(path.name, "a pickled scikit-learn estimator"):
            estimator = need("joblib", extra="sklearn", why="to read pickled estimators").load(path)
        if self.match(estimator) is None:
            kind = type(estimator)
            raise ModelFormatError(
                f"{path.name} holds a {kind.__module__}.{kind.__qualname__}, no scikit-learn estimator. Load it "
                "yourself and pass the object to gap.load."
            )
        return estimator


class _SklearnPredictor(Predictor):
    def __init__(self, estimator: Any, method: str, layout: columns.Layout, signature: Signature, threads: int) -> None:
        self._call = getattr(estimator, method)
        self._output = _METHODS[method]
        self._layout = layout
        self._names = [s.name for s in signature.outputs]
        self._threads = threads
        self._joblib = need("joblib", extra="sklearn", why=_WHY)
        # Made after the estimator is loaded: it knows only the thread pools of libraries that are there.
        self._pools = need("threadpoolctl", extra="sklearn", why=_WHY).ThreadpoolController()
        _limit_boosters(estimator, threads)

    def predict(self, block: Block) -> Block:
        # Estimators with n_jobs would start processes of their own in a task that has its cpus counted.
        with self._joblib.parallel_config("sequential"), self._pools.limit(limits=self._threads):
            result = self._call(self._layout.build(block))
        # A list is what classifiers of several targets return: an array for each.
        if isinstance(result, list):
            named = {f"{self._output}_{i}": _dense(r) for i, r in enumerate(result)}
        else:
            named = {self._output: _dense(result)}
        return {name: finished(array, block.values()) for name, array in named.items()}


def _dense(result: Any) -> np.ndarray:
    """Return sparse matrices and data frames as arrays."""
    if hasattr(result, "toarray"):
        result = result.toarray()
    elif hasattr(result, "to_numpy"):
        result = result.to_numpy()
    return np.asarray(result)


def _check_fitted(estimator: Any) -> None:
    exceptions = need("sklearn.exceptions", extra="sklearn", why=_WHY)
    validation = need("sklearn.utils.validation", extra="sklearn", why=_WHY)
    try:
        validation.check_is_fitted(estimator)
    except exceptions.NotFittedError as error:
        raise ModelFormatError(
            f"The {type(estimator).__name__} is not fitted, so it has nothing to apply. Call its fit first (an "
            "estimator of your own that needs no fit says so with __sklearn_is_fitted__)."
        ) from error


def _method(estimator: Any, wanted: str | None) -> str:
    has = [m for m in _METHODS if callable(getattr(estimator, m, None))]
    title = type(estimator).__name__
    if not has:
        raise ModelFormatError(
            f"{title} has none of the methods {', '.join(_METHODS)}, so it cannot be applied to new rows. Pass an "
            "estimator that can."
        )
    if wanted is None:
        return next((m for m in ("predict", "transform") if m in has), has[0])
    if wanted not in has:
        raise ConfigurationError(f"{title} has no method {wanted!r} here. Set method to one of: {', '.join(has)}.")
    return wanted


def _limit_boosters(estimator: Any, threads: int) -> None:
    """Set the threads of gradient boosting libraries inside of a pipeline: they heed no other limit."""
    for name, part in estimator.get_params(deep=True).items():
        roots = {c.__module__.partition(".")[0] for c in type(part).__mro__}
        if roots & set(_FOREIGN) and hasattr(part, "n_jobs"):
            estimator.set_params(**{f"{name}__n_jobs": threads})
