"""XGBoost: boosters, the estimators of its scikit-learn interface, and model files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models._arrays import finished
from sparkgap.models._boosting import METHOD_HELP, METHODS
from sparkgap.models._foreign import choose, reading
from sparkgap.models._ubjson import check_whole
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_FILE = "model.ubj"
_WHY = "to run XGBoost models"
# Both encodings of a model, JSON and UBJSON, begin with a mapping whose first key is "learner".
_JSON = re.compile(rb'\{\s*"learner"')
_UBJSON = re.compile(rb"\{(L.{8}|l.{4}|I..|[iU].)learner", re.DOTALL)
_ESTIMATORS = ("XGBClassifier", "XGBRanker", "XGBRegressor")


class XGBoostAdapter(ModelAdapter):
    """XGBoost. One tensor ``x`` with an entry a feature; NaN is a missing value."""

    name: ClassVar[str] = "xgboost"
    title: ClassVar[str] = "XGBoost"
    extra: ClassVar[str] = "xgboost"
    requires: ClassVar[tuple[str, ...]] = ("xgboost",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("booster", "`xgboost.Booster` object", "found"),
        Format("estimator", "fitted `XGBModel` object, e.g. `XGBClassifier`", "found"),
        Format("file", "`.ubj` or `.json` model file", "found"),
    )
    options: ClassVar[Mapping[str, str]] = {"method": METHOD_HELP}

    def match(self, source: Any) -> str | None:
        """Take boosters, estimators and files that begin as XGBoost's do."""
        if isinstance(source, Path):
            return "file" if source.is_file() and _is_model_file(source) else None
        bases = {c.__name__ for c in type(source).__mro__ if c.__module__.partition(".")[0] == "xgboost"}
        return "estimator" if "XGBModel" in bases else "booster" if "Booster" in bases else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Save as UBJSON; use a file where it is."""
        method = choose(options, METHODS, self.title)
        kind = str(self.match(source))
        wrapper: str | None = None
        if kind == "estimator":
            booster, wrapper = _fitted(source), _wrapper(type(source).__mro__)
        elif kind == "file":
            booster = _read(source, check=True)
            # Estimators leave their type in the files that they save.
            saved = json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type", "")
            wrapper = next((e for e in _ESTIMATORS if saved and e.lower().endswith(saved)), None)
        else:
            booster = source
        _check_method(booster, wrapper, method)
        if kind != "file":
            (folder / _FILE).write_bytes(booster.save_raw("ubj"))
        signature = Signature((TensorSpec("x", "float32", (int(booster.num_features()),)),))
        return Packed(kind, signature, {"method": method, "wrapper": wrapper}, source if kind == "file" else None)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the booster, as an estimator where it was one."""
        xgboost = need("xgboost", extra="xgboost", why=_WHY)
        file = path / _FILE if path.is_dir() else path
        wrapper, method = packed.meta["wrapper"], packed.meta["method"]
        if wrapper is None:
            estimator, booster = None, _read(file)
        else:
            estimator = getattr(xgboost, wrapper)(n_jobs=runtime.threads)
            with reading(file.name, "an XGBoost model"):
                estimator.load_model(bytearray(file.read_bytes()))
            booster = estimator.get_booster()
        booster.set_param({"nthread": runtime.threads})
        return _XGBoostPredictor(xgboost, booster, estimator, method, runtime.threads)


class _XGBoostPredictor(Predictor):
    def __init__(self, xgboost: Any, booster: Any, estimator: Any, method: str, threads: int) -> None:
        self._xgboost = xgboost
        self._booster = booster
        self._estimator = estimator
        self._method = method
        self._threads = threads
        self._in_place = _booster_kind(booster) != "gblinear"  # linear boosters have no prediction in place

    def predict(self, block: Block) -> Block:
        result = self._with_booster(block["x"]) if self._estimator is None else self._with_estimator(block["x"])
        return {METHODS[self._method]: finished(result, block.values())}

    def _with_estimator(self, x: np.ndarray) -> np.ndarray:
        if self._method == "leaf":
            return np.asarray(self._estimator.apply(x)).astype(np.int32)
        if self._method == "predict_proba":
            return np.asarray(self._estimator.predict_proba(x, validate_features=False))
        return np.asarray(self._estimator.predict(x, output_margin=self._method == "margin", validate_features=False))

    def _with_booster(self, x: np.ndarray) -> np.ndarray:
        margin = self._method == "margin"
        if self._method == "leaf" or not self._in_place:
            data = self._xgboost.DMatrix(x, nthread=self._threads)
            leaf = self._method == "leaf"
            result = self._booster.predict(data, output_margin=margin, pred_leaf=leaf, validate_features=False)
            return result.astype(np.int32) if leaf else np.asarray(result)
        kind = "margin" if margin else "value"
        result = np.asarray(self._booster.inplace_predict(x, predict_type=kind, validate_features=False))
        if self._method == "predict_proba" and result.ndim == 1:
            return np.stack([1 - result, result], axis=1)
        return result


def _is_model_file(path: Path) -> bool:
    with open(path, "rb") as handle:
        head = handle.read(64).lstrip()
    return bool(_JSON.match(head) or _UBJSON.match(head))


def _read(path: Path, *, check: bool = False) -> Any:
    xgboost = need("xgboost", extra="xgboost", why=_WHY)
    with reading(path.name, "an XGBoost model"):
        data = path.read_bytes()
        if check and not _JSON.match(data[:64].lstrip()):
            check_whole(data)  # XGBoost reads past the end of a truncated one, and may crash
        # From bytes: the encoding is told by the content, whatever the file is called.
        return xgboost.Booster(model_file=bytearray(data))


def _fitted(estimator: Any) -> Any:
    if not estimator.__sklearn_is_fitted__():
        raise ModelFormatError(f"The {type(estimator).__name__} is not fitted, so it has no trees. Call its fit first.")
    return estimator.get_booster()


def _wrapper(bases: tuple[type, ...]) -> str:
    names = {c.__name__ for c in bases}
    return next((e for e in _ESTIMATORS if e in names), "XGBRegressor")


def _booster_kind(booster: Any) -> str:
    return str(json.loads(booster.save_config())["learner"]["gradient_booster"]["name"])


def _check_method(booster: Any, wrapper: str | None, method: str) -> None:
    """Refuse on the driver what the model cannot do."""
    if method == "leaf" and _booster_kind(booster) == "gblinear":
        raise ConfigurationError("method 'leaf' needs trees, and this model is linear. Use predict or margin.")
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    has_classes = objective in ("binary:logistic", "multi:softprob") if wrapper is None else wrapper == "XGBClassifier"
    if method == "predict_proba" and not has_classes:
        raise ConfigurationError(
            f"method 'predict_proba' needs a classifier, and this model's objective is {objective}. Use predict."
        )
