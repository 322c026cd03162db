"""`Model`, what users hold, and `load`, which makes one of anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError, SignatureError, UntrustedModelError
from sparkgap.models import bundle, cache, registry
from sparkgap.models.base import Format, ModelAdapter, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec


@dataclass(frozen=True)
class Model:
    """A model of any framework, packed and ready to travel. A small picklable value.

    Made by `sparkgap.load`; the files lie in the bundle that `ref` names.

    Args:
        ref: the bundle.
        signature: the tensors it takes and gives, as far as they are known.
    """

    ref: bundle.BundleRef
    signature: Signature

    @property
    def adapter(self) -> str:
        """Name of the adapter that runs it, e.g. ``"onnx"``."""
        return self.ref.adapter

    @property
    def nbytes(self) -> int:
        """Size of its files, in bytes."""
        return self.ref.nbytes

    def with_signature(self, signature: Signature) -> Model:
        """Return the same model with another signature."""
        return replace(self, ref=replace(self.ref, signature=signature.to_json()), signature=signature)

    def predict(self, block: Mapping[str, Any], *, device: str = "cpu", threads: int | None = None) -> Block:
        """Run the model on one block in this process: for trying it out, and for tests.

        Args:
            block: input tensors by name, one entry a row.
            device: ``"cpu"`` or a framework device.
            threads: framework threads; default all cpus of this machine.

        Returns:
            The output tensors by name.
        """
        runtime = Runtime(device, threads or os.cpu_count() or 1)
        arrays = {name: np.asarray(value) for name, value in block.items()}
        return cache.open_model(self.ref, runtime).predict(arrays)

    def __repr__(self) -> str:
        takes = ", ".join(f"{s.name}: {s.describe()}" for s in self.signature.inputs)
        gives = ", ".join(f"{s.name}: {s.describe()}" for s in self.signature.outputs) or "not known yet"
        return f"Model({self.adapter} {self.ref.format}, {self.nbytes:,} bytes; {takes} -> {gives})"


def load(
    source: Any,
    *,
    adapter: str | None = None,
    signature: Signature | None = None,
    trust: bool = False,
    **options: Any,
) -> Model:
    """Turn anything that is a model into a `Model`. Driver side; the framework is recognised without being imported.

    Args:
        source: a path to a file or folder, or an object of a framework: a module, an estimator, a function.
            The support table in the documentation lists them.
        adapter: name of the adapter, where recognition by itself would pick another, e.g. ``"torch"``.
        signature: names, dtypes and row shapes of inputs and outputs, where the format does not tell them.
            Without it, `transform` finds them by running one small block on the driver.
        trust: allow files that can run code when they are loaded (pickle, TorchScript …). Only for files whose
            origin you trust.
        options: options of the adapter, e.g. ``method="predict_proba"`` for scikit-learn.

    Raises:
        ModelFormatError: nothing recognises the source, or it is unreadable.
        UntrustedModelError: the format can run code, and `trust` is not set.
        ConfigurationError: an option that the adapter does not have.
        MissingDependencyError: packing it needs a package that is not installed.

    Example:
        >>> import sparkgap as gap
        >>> double = gap.load(lambda x: {"y": 2 * x})
        >>> double.predict({"x": [1.0, 2.0]})["y"].tolist()
        [2.0, 4.0]
    """
    if isinstance(source, Model):
        _refuse(options, "a Model that is loaded already")
        return source if signature is None else source.with_signature(signature)
    source = _as_path(source)
    chosen, found = _choose(source, adapter)
    _check_trust(source, chosen, found, trust)
    unknown = sorted(set(options) - set(chosen.options))
    if unknown:
        known = "; ".join(f"{k}: {v}" for k, v in chosen.options.items()) or "none"
        raise ConfigurationError(f"{chosen.title} has no option {', '.join(map(repr, unknown))}. Its options are: {known}.")
    ref = bundle.write(chosen, source, options)
    model = Model(ref, Signature.from_json(ref.signature))
    return model if signature is None else model.with_signature(_complete(signature, model.signature))


def _as_path(source: Any) -> Any:
    if not isinstance(source, str | os.PathLike):
        return source
    text = os.fspath(source)
    if "://" in text:
        from sparkgap.data.storage import download

        return download(text, bundle.cache_folder() / "downloads")
    path = Path(text).expanduser()
    if not path.exists():
        raise ModelFormatError(f"There is no model at {path}: got a path that does not exist. Check it.")
    return path.resolve()


def _choose(source: Any, name: str | None) -> tuple[ModelAdapter, str]:
    if name is None:
        return registry.recognise(source)
    chosen = registry.adapter(name)
    found = chosen.match_named(source)
    if found is None:
        taken = ", ".join(f.source for f in chosen.formats)
        raise ModelFormatError(f"{chosen.title} does not take {source!r}. It takes: {taken}.")
    return chosen, found


def _check_trust(source: Any, adapter: ModelAdapter, name: str, trust: bool) -> None:
    form = next((f for f in adapter.formats if f.name == name), Format(name, name, "given"))
    if form.runs_code and not trust and isinstance(source, Path):
        raise UntrustedModelError(
            f"{source.name} is a {form.source}, which can run any code when it is loaded. If you trust where it "
            "comes from, pass trust=True; else convert it to a format that cannot (ONNX, safetensors)."
        )


def _complete(given: Signature, found: Signature) -> Signature:
    """Complete what the user gave by what the format says; names must agree where both have them."""
    known = {s.name: s for s in found.inputs}
    for spec in given.inputs:
        if known and spec.name not in known:
            raise SignatureError(
                f"The signature has an input `{spec.name}` that the model has not; it takes {', '.join(known)}."
            )
    return Signature(
        _merge(given.inputs or found.inputs, found.inputs),
        _merge(given.outputs or found.outputs, found.outputs),
        given.batch if given.batch is not None else found.batch,
    )


def _merge(specs: tuple[TensorSpec, ...], by: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    known = {s.name: s for s in by}
    return tuple(s.merge(known[s.name]) if s.name in known else s for s in specs)


def _refuse(options: Mapping[str, Any], what: str) -> None:
    if options:
        raise ConfigurationError(f"Options {', '.join(options)} do not apply to {what}; pass them to the first load.")
