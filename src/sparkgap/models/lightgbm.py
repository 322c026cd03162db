"""LightGBM: boosters, the estimators of its scikit-learn interface, and model files."""

from __future__ import annotations

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
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_FILE = "model.txt"
_WHY = "to run LightGBM models"
_END = "end of trees"
_PROBABILITIES = ("binary", "multiclass", "multiclassova", "cross_entropy")


class LightGBMAdapter(ModelAdapter):
    """LightGBM. One tensor ``x`` with an entry a feature; NaN is a missing value."""

    name: ClassVar[str] = "lightgbm"
    title: ClassVar[str] = "LightGBM"
    extra: ClassVar[str] = "lightgbm"
    requires: ClassVar[tuple[str, ...]] = ("lightgbm",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("booster", "`lightgbm.Booster` object", "found"),
        Format("estimator", "fitted `LGBMModel` object, e.g. `LGBMClassifier`", "found"),
        Format("file", "`.txt` model file", "found"),
    )
    options: ClassVar[Mapping[str, str]] = {"method": METHOD_HELP}

    def match(self, source: Any) -> str | None:
        """Take boosters, estimators and files that begin as LightGBM's do."""
        if isinstance(source, Path):
            return "file" if source.is_file() and _is_model_file(source) else None
        bases = {c.__name__ for c in type(source).__mro__ if c.__module__.partition(".")[0] == "lightgbm"}
        return "estimator" if "LGBMModel" in bases else "booster" if "Booster" in bases else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Save as text; use a file where it is."""
        method = choose(options, METHODS, self.title)
        kind = str(self.match(source))
        classes: list[Any] | None = None
        if kind == "estimator":
            booster = _fitted(source)
            # A loss function of the user's own gives values that are no probabilities of classes.
            if hasattr(source, "classes_") and not callable(source.objective):
                classes = np.asarray(source.classes_).tolist()
        else:
            booster = _read(source) if kind == "file" else source
        _check_method(booster, classes, method)
        if kind != "file":
            (folder / _FILE).write_text(booster.model_to_string(), encoding="utf-8")
        signature = Signature((TensorSpec("x", "float64", (int(booster.num_feature()),)),))
        return Packed(kind, signature, {"method": method, "classes": classes}, source if kind == "file" else None)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the booster."""
        booster = _read(path / _FILE if path.is_dir() else path)
        return _LightGBMPredictor(booster, packed.meta["method"], packed.meta["classes"], runtime.threads)


class _LightGBMPredictor(Predictor):
    def __init__(self, booster: Any, method: str, classes: list[Any] | None, threads: int) -> None:
        self._booster = booster
        self._method = method
        self._classes = None if classes is None else np.asarray(classes)
        self._threads = threads

    def predict(self, block: Block) -> Block:
        result = self._booster.predict(
            block["x"],
            raw_score=self._method == "margin",
            pred_leaf=self._method == "leaf",
            num_threads=self._threads,
        )
        return {METHODS[self._method]: finished(self._finish(np.asarray(result)), block.values())}

    def _finish(self, result: np.ndarray) -> np.ndarray:
        if self._method in ("margin", "leaf"):
            return result
        labels = self._method == "predict" and self._classes is not None
        if result.ndim == 1 and (labels or self._method == "predict_proba"):
            result = np.stack([1.0 - result, result], axis=1)
        if labels and self._classes is not None:
            return np.asarray(self._classes[np.argmax(result, axis=1)])
        return result


def _is_model_file(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(16).startswith((b"tree\n", b"tree\r\n"))


def _read(path: Path) -> Any:
    lightgbm = need("lightgbm", extra="lightgbm", why=_WHY)
    with reading(path.name, "a LightGBM model"):
        text = path.read_text(encoding="utf-8")
    _check_whole(text, path.name)
    with reading(path.name, "a LightGBM model"):
        return lightgbm.Booster(model_str=text)


def _check_whole(text: str, name: str) -> None:
    """Refuse a truncated text before LightGBM sees it: it aborts the process on some of them.

    The header tells the size of every tree in bytes; after the last one there is an end mark.
    """
    head, mark, rest = text.partition("\nTree=0\n")
    trees, end, _ = (mark + rest).partition(_END)
    found = len(trees.lstrip("\n").encode())
    sizes = next((line for line in head.splitlines() if line.startswith("tree_sizes=")), None)
    total = found if sizes is None else sum(map(int, re.findall(r"\d+", sizes)))
    if not (end or _END in head) or found != total:
        raise ModelFormatError(
            f"{name} cannot be read as a LightGBM model: {found:,} bytes of trees where its header says {total:,}. "
            "It is truncated or damaged: copy or save it again."
        )


def _fitted(estimator: Any) -> Any:
    if not estimator.__sklearn_is_fitted__():
        raise ModelFormatError(f"The {type(estimator).__name__} is not fitted, so it has no trees. Call its fit first.")
    return estimator.booster_


def _check_method(booster: Any, classes: list[Any] | None, method: str) -> None:
    """Refuse on the driver what the model cannot do."""
    text = booster.model_to_string(num_iteration=1)
    line = next((x for x in text.splitlines() if x.startswith("objective=")), "objective=none")
    objective = line.partition("=")[2].split(" ")[0]
    if method == "predict_proba" and classes is None and objective not in _PROBABILITIES:
        raise ConfigurationError(
            f"method 'predict_proba' needs a classifier, and this model's objective is {objective}. Use predict."
        )
