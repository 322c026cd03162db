"""Keras 3 on each of its backends: model objects, `.keras` files and `.h5` files."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sparkgap._errors import ConfigurationError, ModelFormatError, UntrustedModelError
from sparkgap._optional import need
from sparkgap.models._environ import environment
from sparkgap.models._foreign import reading
from sparkgap.models._keras_predictor import device_name, make_predictor, signature_of
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Signature

BACKENDS = ("tensorflow", "jax", "torch")
_CUSTOM = "custom_objects.pkl"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# What Keras itself refuses to load in its safe mode: Python code inside the file, or a pickle.
_CODE = re.compile(rb'"(?:class_name|registered_name)"\s*:\s*"(?:Lambda|__lambda__|TorchModuleWrapper|TFSMLayer)"')


class KerasAdapter(ModelAdapter):
    """Keras models. Keras fixes its backend when it is imported, so each backend is a process family of its own.

    Threads are process-wide in every backend, and set by the first model that is opened in a process: those of
    TensorFlow and JAX before they start, those of PyTorch at any time.
    """

    name: ClassVar[str] = "keras"
    title: ClassVar[str] = "Keras"
    extra: ClassVar[str] = "keras"
    requires: ClassVar[tuple[str, ...]] = ("keras",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("model", "Keras 3 model object that is built", "read"),
        Format("keras", "`.keras` file", "read"),
        Format("h5", "`.h5` file of a whole model", "read"),
        Format("keras-code", "`.keras` file with Python code in it (a Lambda layer)", "read", runs_code=True),
        Format("h5-code", "`.h5` file with Python code in it (a Lambda layer)", "read", runs_code=True),
    )
    options: ClassVar[Mapping[str, str]] = {
        "backend": "tensorflow, jax or torch; default that of the Keras in use here, KERAS_BACKEND, or the first installed",
        "custom_objects": "classes and functions that are not part of Keras, by name; sent along with the model",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take Keras 3 models, and files whose content says so. Files with code in them are a format of their own."""
        if isinstance(source, Path):
            return _file_format(source)
        bases = [f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__]
        return "model" if any(re.fullmatch(r"keras\.(src\.)?models\.model\.Model", b) for b in bases) else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Save an object; use a file where it is. The signature of a file is read in a short-lived process."""
        form = self.match(source) or "keras"
        backend = _backend(options.get("backend"))
        custom = dict(options.get("custom_objects") or {})
        if not isinstance(source, Path):
            return _pack_object(source, folder, backend, custom)
        _check_file(source, form)
        if custom:
            file, path = None, folder / source.name
            shutil.copy2(source, path)
            _write_custom(custom, folder)
        else:
            file = path = source
        meta = {"backend": backend, "file": None if file else path.name, "safe": not form.endswith("-code")}
        return Packed(form, _describe(file or folder, meta), meta, file)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the model on its backend."""
        meta = packed.meta
        keras = import_keras(meta["backend"], runtime)
        device = device_name(runtime.device, meta["backend"])
        with keras.device(device):
            return make_predictor(keras, _load(keras, path, meta), packed.signature, device)

    def family(self, packed: Packed) -> str | None:
        """Each backend needs a process of its own; TensorFlow's can also run SavedModels."""
        backend = packed.meta["backend"]
        return "tensorflow" if backend == "tensorflow" else f"keras-{backend}"


def import_keras(backend: str, runtime: Runtime) -> ModuleType:
    """Import Keras on a backend, with the threads of the task.

    Raises:
        ConfigurationError: Keras runs here already, on another backend.
        MissingDependencyError: Keras or the backend is not installed.
    """
    loaded = _loaded_backend()
    if loaded is not None and loaded != backend:
        raise ConfigurationError(
            f"Keras runs on its {loaded} backend in this process, and the model wants {backend}. Pass "
            f"backend={loaded!r} to load, or import keras with KERAS_BACKEND={backend}."
        )
    if backend == "tensorflow":
        from sparkgap.models.tensorflow import import_tensorflow

        import_tensorflow(runtime)
    elif backend == "jax":
        from sparkgap.models.jax import import_jax

        import_jax(runtime)
    else:
        need("torch", extra="torch", why="to run Keras models on PyTorch").set_num_threads(runtime.threads)
    # TF_CPP_MIN_LOG_LEVEL: Keras imports TensorFlow by itself on other backends, where it is installed
    with environment({"KERAS_BACKEND": backend}), environment({"TF_CPP_MIN_LOG_LEVEL": "3"}, keep=True):
        return need("keras", extra="keras", why="to run Keras models")


def describe(path: str, meta: Mapping[str, Any]) -> str:
    """Load a model and return its signature as JSON. For `call_in_child`."""
    keras = import_keras(meta["backend"], Runtime())
    return signature_of(_load(keras, Path(path), meta)).to_json()


def _describe(path: Path, meta: Mapping[str, Any]) -> Signature:
    if _loaded_backend() == meta["backend"]:
        return Signature.from_json(describe(str(path), meta))
    from sparkgap.models.process import call_in_child

    # importing Keras here would fix its backend for the user's whole session
    return Signature.from_json(call_in_child("sparkgap.models.keras:describe", path=str(path), meta=dict(meta)))


def _loaded_backend() -> str | None:
    keras = sys.modules.get("keras")
    return str(keras.backend.backend()) if keras is not None and hasattr(keras, "backend") else None


def _backend(wanted: Any) -> str:
    backend = wanted or _loaded_backend() or os.environ.get("KERAS_BACKEND")
    backend = backend or next((b for b in BACKENDS if importlib.util.find_spec(b)), BACKENDS[0])
    if backend not in BACKENDS:
        raise ConfigurationError(
            f"Keras backend {backend!r} is not supported; got it from the option, KERAS_BACKEND or the loaded Keras. "
            f"Pass backend= one of {', '.join(BACKENDS)}."
        )
    return str(backend)


def _file_format(path: Path) -> str | None:
    """Name the format of a file; broken files keep the name of their suffix and fail in `pack`."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".keras", ".h5", ".hdf5"):
        return None
    if suffix == ".keras":
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("config.json")
        except (zipfile.BadZipFile, KeyError, OSError):
            return "keras"
        return "keras-code" if _CODE.search(text) else "keras"
    with open(path, "rb") as handle:
        if not handle.read(len(_HDF5)):
            return "h5"
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Only a hint for the user: Keras itself refuses code that this search misses (its safe mode).
            return "h5-code" if _CODE.search(content) else "h5"


def _check_file(path: Path, form: str) -> None:
    """Refuse a broken file before a process is started for it."""
    with open(path, "rb") as handle:
        magic = handle.read(len(_HDF5))
    size = f"{path.name} ({path.stat().st_size:,} bytes)"
    if form.startswith("h5") and magic != _HDF5:
        raise ModelFormatError(f"{size} is not an HDF5 file: got first bytes {magic[:8]!r}. Save the model again.")
    if path.name.endswith(".weights.h5"):
        raise ModelFormatError(
            f"{size} holds weights without the model. Build the model, call model.load_weights({path.name!r}) and "
            "pass the model, or save all of it with model.save('model.keras')."
        )
    if form.startswith("keras"):
        try:
            with zipfile.ZipFile(path) as archive:
                json.loads(archive.read("config.json"))
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise ModelFormatError(
                f"{size} cannot be read as a .keras file: {error}. It may be truncated: copy it again, or save the "
                "model anew with model.save('model.keras')."
            ) from error


def _pack_object(model: Any, folder: Path, backend: str, custom: dict[str, Any]) -> Packed:
    if not getattr(model, "built", False):
        raise ConfigurationError(
            f"The Keras model `{model.name}` is not built, so it has no weights and no shapes yet. Call it on one batch, "
            "or model.build(input_shape), and load it then."
        )
    custom = {**_own_classes(model), **custom}
    _write_custom(custom, folder)
    with reading(f"The Keras model `{model.name}`", "something that can be saved"):
        model.save(folder / "new.keras")
    _without_date(folder / "new.keras", folder / "model.keras")
    # the user's own object may hold lambdas: it is already their code
    return Packed("model", signature_of(model), {"backend": backend, "file": "model.keras", "safe": False})


def _without_date(source: Path, target: Path) -> None:
    """Rewrite a `.keras` file without its date, so that equal models give equal bundles, which are sent once."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            with old.open(name) as content, new.open(zipfile.ZipInfo(name), "w", force_zip64=True) as copy:
                if name == "metadata.json":
                    metadata = {k: v for k, v in json.load(content).items() if k != "date_saved"}
                    copy.write(json.dumps(metadata).encode())
                else:
                    shutil.copyfileobj(content, copy, 1 << 20)
    source.unlink()


def _own_classes(model: Any) -> dict[str, Any]:
    """Find the classes of a model and its layers that are not part of Keras, under the names that files use."""
    keras = sys.modules["keras"]
    found = {}
    for layer in [model, *model._flatten_layers(include_self=False)]:
        kind = type(layer)
        if kind.__module__.partition(".")[0] != "keras":
            found[kind.__name__] = kind
            found[keras.saving.get_registered_name(kind)] = kind
    return found


def _write_custom(custom: Mapping[str, Any], folder: Path) -> None:
    if not custom:
        return
    from pyspark import cloudpickle

    (folder / _CUSTOM).write_bytes(cloudpickle.dumps(dict(custom)))


def _load(keras: ModuleType, path: Path, meta: Mapping[str, Any]) -> Any:
    custom: Mapping[str, Any] = {}
    folder, path = path, path / meta["file"] if meta["file"] else path
    if meta["file"] and (folder / _CUSTOM).exists():
        import pickle

        custom = pickle.loads((folder / _CUSTOM).read_bytes())  # packed by the user's own driver
    try:
        with reading(path.name, "a Keras model"), environment({"TF_CPP_MIN_LOG_LEVEL": "3"}, keep=True):
            return keras.saving.load_model(path, custom_objects=custom or None, compile=False, safe_mode=meta["safe"])
    except ModelFormatError as error:
        text = str(error.__cause__)
        if "safe_mode" in text or "unsafe_deserialization" in text:
            raise UntrustedModelError(
                f"{path.name} holds Python code that Keras loads only where it is trusted: {text} If you trust where "
                "it comes from, load it with Keras yourself (safe_mode=False) and pass the model object."
            ) from error
        missing = re.search(r"Could not locate (class|function) '([^']+)'", text)
        if missing:
            kind, name = missing.groups()
            raise ModelFormatError(
                f"{path.name} has a {kind} {name} that is not part of Keras, and a file holds no code. Pass it to load with "
                f"custom_objects={{{name!r}: {name}}}."
            ) from error
        raise
