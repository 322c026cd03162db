"""Which adapter takes which source: a dict of lazy built-ins plus entry points of other packages."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models.base import ModelAdapter

GROUP = "sparkgap.models"

# In the order of asking: the specific before the general (a plain callable comes last).
_BUILT_IN = {
    "onnx": "sparkgap.models.onnx:OnnxAdapter",
    "torch": "sparkgap.models.torch:TorchAdapter",
    "keras": "sparkgap.models.keras:KerasAdapter",
    "tensorflow": "sparkgap.models.tensorflow:TensorFlowAdapter",
    "jax": "sparkgap.models.jax:JaxAdapter",
    "sklearn": "sparkgap.models.sklearn:SklearnAdapter",
    "xgboost": "sparkgap.models.xgboost:XGBoostAdapter",
    "lightgbm": "sparkgap.models.lightgbm:LightGBMAdapter",
    "sentence_transformers": "sparkgap.models.sentence_transformers:SentenceTransformersAdapter",
    "function": "sparkgap.models.function:FunctionAdapter",
}


@cache
def adapters() -> dict[str, ModelAdapter]:
    """Return every adapter by name: those of other packages first, then the built-in ones.

    Raises:
        ConfigurationError: two packages bring an adapter of the same name.
    """
    found: dict[str, ModelAdapter] = {}
    for point in entry_points(group=GROUP):
        adapter = point.load()()
        if adapter.name in found or adapter.name in _BUILT_IN:
            raise ConfigurationError(
                f"Entry point `{point.name}` of group `{GROUP}` ({point.value}) brings an adapter named "
                f"{adapter.name!r}, and there is one of that name already. Rename it or remove one package."
            )
        found[adapter.name] = adapter
    return found | {name: _built_in(name) for name in _BUILT_IN}


@cache
def _built_in(name: str) -> ModelAdapter:
    module, _, attribute = _BUILT_IN[name].partition(":")
    made: ModelAdapter = getattr(importlib.import_module(module), attribute)()
    return made


def adapter(name: str) -> ModelAdapter:
    """Return the adapter of that name.

    Raises:
        ConfigurationError: there is none here.
    """
    if name in _BUILT_IN:  # executors need one adapter, not all
        return _built_in(name)
    known = adapters()
    if name not in known:
        raise ConfigurationError(
            f"There is no model adapter named {name!r}; got adapters {', '.join(known)}. If a package brings "
            "it, install that package here and on every executor."
        )
    return known[name]


def recognise(source: Any) -> tuple[ModelAdapter, str]:
    """Find the adapter and the format for a source.

    Raises:
        ModelFormatError: no adapter takes it.
    """
    for candidate in adapters().values():
        found = candidate.match(source)
        if found is not None:
            return candidate, found
    raise ModelFormatError(_unknown(source))


def _unknown(source: Any) -> str:
    kind = type(source)
    what = f"{str(source)!r}" if hasattr(source, "__fspath__") else f"a {kind.__module__}.{kind.__qualname__}"
    taken = "; ".join(f"{a.title}: {', '.join(f.source for f in a.formats)}" for a in adapters().values())
    return (
        f"No adapter recognises {what} as a model. Taken are — {taken}. Pass one of these, name the adapter "
        "with adapter=…, or wrap the model in a plain function whose parameters name its inputs."
    )
