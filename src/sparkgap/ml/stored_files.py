"""The files beside a stage's metadata: bundles of models, and arrays. What may be opened is decided here."""

from __future__ import annotations

import contextvars
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from sparkgap._errors import ConfigurationError, ModelFormatError, UntrustedModelError
from sparkgap.cooperative import tensor_file
from sparkgap.data import storage
from sparkgap.models import bundle, registry
from sparkgap.models.base import Packed
from sparkgap.models.model import Model
from sparkgap.tensors.spec import Signature

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ARRAYS = "arrays.safetensors"
_CHUNK = 1 << 20
# Bundles whose files hold numbers and graphs, no code. Objects of other frameworks are pickled into their bundles.
_NO_CODE = {
    "onnx": ("file", "proto"),
    "tensorflow": ("savedmodel", "module", "function"),
    "keras": ("keras", "h5"),
    "jax": ("exported", "export-file"),
    "xgboost": ("booster", "estimator", "file"),
    "lightgbm": ("booster", "estimator", "file"),
    "sentence_transformers": ("folder",),
}
_TOLD_BY_CONTENT = ("sentence_transformers",)
_PICKLES = (".pkl", ".pickle", ".joblib")

_trusted: contextvars.ContextVar[bool] = contextvars.ContextVar("trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """Let stages be loaded whose models can run code when they are opened, within a `with` block.

    Models that were Python objects (modules of PyTorch, estimators, functions) are saved as pickles. Who can write to the
    folder of such a stage can run code wherever it is loaded: use this only for folders whose origin you trust.

    Example:
        >>> from pyspark.ml import PipelineModel
        >>> from sparkgap import ml
        >>> with ml.trusted():  # doctest: +SKIP
        ...     pipeline = PipelineModel.load("our/pipeline")
    """
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


@dataclass(frozen=True)
class Folder:
    """A stage's folder, as this process reaches it."""

    system: pafs.FileSystem
    path: str

    @staticmethod
    def of(path: str, spark: SparkSession) -> Folder:
        """Find the folder in which Spark has the metadata: it alone knows what a path without a scheme means.

        Raises:
            ConfigurationError: this process does not see it.
        """
        found = spark.read.text(path.rstrip("/") + "/metadata").select("_metadata.file_path").first()
        where = str(found[0] if found is not None else path).rpartition("/metadata/")[0]
        system, local = storage.resolve(where)
        if system.get_file_info(f"{local}/metadata").type != pafs.FileType.Directory:
            raise ConfigurationError(
                f"Spark has the stage at {where}, and this process sees no such folder: they do not share that file system. "
                "Use an address that both can reach, e.g. s3://bucket/folder or a shared mount."
            )
        return Folder(system, local)

    def put(self, name: str, parts: Iterator[Any]) -> None:
        """Write a file below the folder."""
        target = f"{self.path}/{name}"
        self.system.create_dir(target.rpartition("/")[0], recursive=True)
        with self.system.open_output_stream(target) as out:
            for part in parts:
                out.write(part)

    def fetch(self, name: str, target: Path) -> None:
        """Copy all files below a folder of this one to a local folder."""
        base = f"{self.path}/{name}"
        for info in self.system.get_file_info(pafs.FileSelector(base, recursive=True)):
            if not info.is_file:
                continue
            local = target / info.path[info.path.index(name) + len(name) + 1 :]
            local.parent.mkdir(parents=True, exist_ok=True)
            with self.system.open_input_stream(info.path) as source, open(local, "wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)


def describe(model: Model) -> dict[str, Any]:
    """Return what the metadata says of a model: all that its adapter needs besides the files."""
    ref, path = model.ref, bundle.locate(model.ref)
    packed = ref.packed()
    return {
        "adapter": ref.adapter,
        "format": ref.format,
        "digest": ref.digest,
        "signature": model.signature.to_json(),
        "meta": dict(packed.meta),
        "file": path.name if path.is_file() else None,
    }


def write_model(folder: Folder, name: str, model: Model) -> None:
    """Write the files of a model to ``models/<name>``."""
    path = bundle.locate(model.ref)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file() and f.name != bundle.DONE]
    base = path.parent if path.is_file() else path
    for file in files:
        folder.put(f"models/{name}/{file.relative_to(base).as_posix()}", _chunks(file))


def read_model(folder: Folder, name: str, told: Mapping[str, Any]) -> Model:
    """Copy the files of a model into the cache of this machine, and return it.

    Raises:
        UntrustedModelError: it can run code when it is opened, and this is not within `trusted`.
        ModelFormatError: the files are not what was saved.
    """
    cache = bundle.cache_folder()
    work = Path(tempfile.mkdtemp(prefix="stage-", dir=cache))
    try:
        files = work / "files"
        files.mkdir()
        folder.fetch(f"models/{name}", files)
        _check_trust(told, files, f"{folder.path}/models/{name}")
        packed = Packed(told["format"], Signature.from_json(told["signature"]), told["meta"])
        content = _content(files, told)
        # The name in the cache is told by the content, not by the folder: nobody can leave other files under it.
        if not content.exists() or bundle.digest_of(content, told["adapter"], packed) != told["digest"]:
            raise ModelFormatError(
                f"The model in {folder.path}/models/{name} is not what was saved: files are missing or were changed. Save "
                "the stage again."
            )
        bundle.publish(files, cache / told["digest"])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Model(_ref(told, cache / told["digest"]), packed.signature)


def write_arrays(folder: Folder, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to one file."""
    folder.put(_ARRAYS, iter(tensor_file.encode(dict(arrays), {})))


def read_arrays(folder: Folder) -> dict[str, np.ndarray]:
    """Return the arrays, which may be written to.

    Raises:
        ModelFormatError: the file is missing or damaged.
    """
    place = f"{folder.path}/{_ARRAYS}"
    try:
        with folder.system.open_input_stream(place) as source:
            content = np.frombuffer(bytearray(source.read()), np.uint8)
        arrays, _ = tensor_file.decode(content)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ModelFormatError(f"The arrays of the stage cannot be read from {place}: {error}. Save it again.") from error
    return dict(arrays)


def _content(folder: Path, told: Mapping[str, Any]) -> Path:
    """Return the path of a bundle whose files lie in a folder: the folder, or its one file."""
    return folder / Path(told["file"]).name if told["file"] else folder


def _ref(told: Mapping[str, Any], target: Path) -> bundle.BundleRef:
    path = _content(target, told)
    files = [path] if told["file"] else [f for f in target.rglob("*") if f.is_file()]
    return bundle.BundleRef(
        digest=told["digest"],
        adapter=told["adapter"],
        format=told["format"],
        signature=told["signature"],
        meta=json.dumps(told["meta"], sort_keys=True),
        path=str(path),
        nbytes=sum(f.stat().st_size for f in files),
        stamp=path.stat().st_mtime_ns if told["file"] else None,
    )


def _check_trust(told: Mapping[str, Any], files: Path, place: str) -> None:
    """Let pass what cannot run code; the adapter opens a bundle by the format that is checked here."""
    pickles = any(f.suffix in _PICKLES for f in files.rglob("*"))
    plain = told["format"] in _NO_CODE.get(told["adapter"], ()) and told["meta"].get("safe", True) and not pickles
    if plain and told["adapter"] in _TOLD_BY_CONTENT:  # a folder that brings code is another format, whatever is said
        plain = registry.adapter(told["adapter"]).match(files) == told["format"]
    if not plain and not _trusted.get():
        raise UntrustedModelError(
            f"{place} holds a {told['adapter']} model ({told['format']}), which can run any code when it is opened. If you "
            "trust where it comes from, load it within `with sparkgap.ml.trusted():`, or with load(path, trust=True); else "
            "save the stage with a model in a format that cannot (ONNX)."
        )


def _chunks(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk
