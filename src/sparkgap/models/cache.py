"""Loaded models of this process, by digest, least recently used out first when over a byte limit."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass

from sparkgap._errors import ConfigurationError
from sparkgap.models import bundle, family, registry
from sparkgap.models.base import Predictor, Runtime

_Key = tuple[str, Runtime]
DEFAULT_LIMIT = 4 << 30


@dataclass
class _Entry:
    predictor: Predictor
    nbytes: int


class ModelCache:
    """Predictors of one process. Thread-safe; a model is loaded once however many ask at the same time.

    Args:
        limit: bytes of model files that are kept loaded. The newest model stays even when it is larger.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self.loads = 0

    def open(self, ref: bundle.BundleRef, runtime: Runtime) -> Predictor:
        """Return the loaded model, loading it if it is not here."""
        key = (ref.digest + ref.signature, runtime)
        with self._lock:
            if key not in self._entries:
                predictor = _load(ref, runtime)
                self.loads += 1
                self._entries[key] = _Entry(predictor, ref.nbytes)
            self._entries.move_to_end(key)
            self._evict()
            return self._entries[key].predictor

    def forget(self, predictor: Predictor) -> None:
        """Drop a predictor that no longer works (its process died)."""
        with self._lock:
            for key in [k for k, e in self._entries.items() if e.predictor is predictor]:
                self._entries.pop(key).predictor.close()

    def _evict(self) -> None:
        while len(self._entries) > 1 and sum(e.nbytes for e in self._entries.values()) > self._limit:
            _, entry = self._entries.popitem(last=False)
            entry.predictor.close()


def _load(ref: bundle.BundleRef, runtime: Runtime) -> Predictor:
    adapter = registry.adapter(ref.adapter)
    packed = ref.packed()
    wanted = adapter.family(packed)
    if family.claim(wanted):
        return adapter.open(bundle.locate(ref), packed, runtime)
    from sparkgap.models.process import ProcessPredictor

    return ProcessPredictor(ref, runtime)


def _limit() -> int:
    text = os.environ.get("SPARKGAP_MODEL_CACHE_BYTES", "")
    if not text:
        return DEFAULT_LIMIT
    if not text.isdigit():
        raise ConfigurationError(
            f"SPARKGAP_MODEL_CACHE_BYTES is {text!r}; it must be a whole number of bytes, e.g. {DEFAULT_LIMIT}."
        )
    return int(text)


_cache: ModelCache | None = None
_cache_lock = threading.Lock()


def process_cache() -> ModelCache:
    """Return the cache of this process, made at first use."""
    global _cache
    with _cache_lock:
        if _cache is None:
            _cache = ModelCache(_limit())
        return _cache


def open_model(ref: bundle.BundleRef, runtime: Runtime) -> Predictor:
    """Return the loaded model of this process."""
    return process_cache().open(ref, runtime)
