"""Sentence-transformers: texts to embeddings, from model folders and `SentenceTransformer` objects."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models._environ import environment
from sparkgap.models._foreign import reading
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_WHY = "to run sentence-transformers models"
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")
# Weights for other runtimes, and what a repository has besides the model.
_LEFT_OUT = (".git*", ".cache", "onnx", "openvino", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.md")


class SentenceTransformersAdapter(ModelAdapter):
    """Embeds a text column: input `text` (str), output `embedding` (float32). Nothing is ever downloaded.

    PyTorch's threads are process-wide: the last model that was opened sets them.
    """

    name: ClassVar[str] = "sentence_transformers"
    title: ClassVar[str] = "sentence-transformers"
    extra: ClassVar[str] = "sentence-transformers"
    requires: ClassVar[tuple[str, ...]] = ("sentence_transformers", "torch")
    formats: ClassVar[tuple[Format, ...]] = (
        Format("model", "`SentenceTransformer` object", "read"),
        Format("folder", "folder of a sentence-transformers model (with `modules.json`) or of a transformer", "read"),
        Format("folder-code", "folder of a model that brings Python code of its own", "read", runs_code=True),
    )
    options: ClassVar[Mapping[str, str]] = {
        "normalize": "True: scale every embedding to length 1; default False",
        "prompt_name": "name of one of the model's prompts, put before every text",
        "prompt": "text put before every text",
        "batch_size": "texts that run at once, sorted by length within a block; default 32",
        "max_length": "tokens that are read of a text; default as the model says",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take model folders, and objects by their class."""
        if isinstance(source, Path):
            return _folder_format(source) if source.is_dir() else None
        names = (f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__)
        return "model" if any(re.fullmatch(r"sentence_transformers\.(.+\.)?SentenceTransformer", n) for n in names) else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Copy the folder, or save the object."""
        form = self.match(source) or "folder"
        truncate = None
        if isinstance(source, Path):
            _check_weights(source)
            # a copy, not hard links: weights that are saved again over the old ones would change the bundle
            shutil.copytree(source, folder, ignore=partial(_unused, folder), dirs_exist_ok=True)
            width, prompts = _width(source), _json(source / "config_sentence_transformers.json").get("prompts") or {}
        else:
            with reading("The SentenceTransformer", "something that can be saved"), _quiet():
                source.save(str(folder), create_model_card=False)
            get = getattr(source, "get_embedding_dimension", None) or source.get_sentence_embedding_dimension
            width, prompts, truncate = get(), source.prompts, source.truncate_dim
        meta = {**_encoding(options, prompts), "truncate": truncate}
        signature = Signature((TensorSpec("text", "str", ()),), (TensorSpec("embedding", "float32", (width,)),))
        return Packed(form, signature, meta)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the model from the bundle, without the network."""
        need("torch", extra=self.extra, why=_WHY).set_num_threads(runtime.threads)
        # the pool of the tokenizer is made when it is first used, with as many threads as this says
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "RAYON_NUM_THREADS": str(runtime.threads)}
        with environment(offline), reading(path.name, "a sentence-transformers model"):
            library = need("sentence_transformers", extra=self.extra, why=_WHY)
            with _quiet():
                model = library.SentenceTransformer(
                    str(path),
                    device=runtime.device,
                    local_files_only=True,
                    # code in the folder is the user's own, or they said trust=True
                    trust_remote_code=packed.format != "folder",
                    truncate_dim=packed.meta["truncate"],
                )
                if packed.meta["max_length"] is not None:
                    model.max_seq_length = packed.meta["max_length"]
                model.encode(["a", "b"], show_progress_bar=False)
        return _EmbeddingPredictor(model, packed)


class _EmbeddingPredictor(Predictor):
    def __init__(self, model: Any, packed: Packed) -> None:
        self._model = model
        self._input = packed.signature.inputs[0].name
        output = packed.signature.outputs[0]
        self._output = output.name
        self._width = (output.shape or (0,))[0] or 0
        meta = packed.meta
        self._options = {
            "batch_size": meta["batch_size"],
            "normalize_embeddings": meta["normalize"],
            "prompt_name": meta["prompt_name"],
            "prompt": meta["prompt"],
        }

    def predict(self, block: Block) -> Block:
        texts = block[self._input].tolist()
        if not texts:
            return {self._output: np.empty((0, self._width), np.float32)}
        found = self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True, **self._options)
        return {self._output: np.asarray(found, np.float32)}


def _encoding(options: Mapping[str, Any], prompts: Mapping[str, str]) -> dict[str, Any]:
    """Check the options that `encode` gets."""
    name = options.get("prompt_name")
    if name is not None and name not in prompts:
        have = ", ".join(map(repr, prompts)) or "none"
        raise ConfigurationError(f"The model has no prompt named {name!r}; it has {have}. Pass the text itself as prompt=….")
    found = {"batch_size": options.get("batch_size", 32), "max_length": options.get("max_length")}
    for key, value in found.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigurationError(f"{key} is {value!r}; it must be a whole number above 0.")
    normalize = bool(options.get("normalize", False))
    return {**found, "normalize": normalize, "prompt_name": name, "prompt": options.get("prompt")}


def _folder_format(folder: Path) -> str | None:
    config = _json(folder / "config.json")
    if (folder / "modules.json").is_file():
        if (
            _json(folder / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
            != "SentenceTransformer"
        ):
            return None  # a cross-encoder or a sparse encoder
        types = [str(m.get("type", "")) for m in _modules(folder)]
        configs = [config, *(_json(folder / str(m.get("path", "")) / "config.json") for m in _modules(folder))]
        foreign = any(not t.startswith("sentence_transformers.") for t in types)
        return "folder-code" if foreign or any("auto_map" in c for c in configs) else "folder"
    if not config or not any((folder / name).is_file() for name in _TOKENIZERS):
        return None
    return "folder-code" if "auto_map" in config else "folder"


def _modules(folder: Path) -> list[dict[str, Any]]:
    found = _json(folder / "modules.json", of=list)
    return [m for m in found if isinstance(m, dict)]


def _json(path: Path, of: type = dict) -> Any:
    """Read a JSON file of an object (or list); empty where there is none that is readable: loading will say why."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return of()
    return found if isinstance(found, of) else of()


def _width(folder: Path) -> int | None:
    """Return the length of the embeddings, told by the last module that has one; None where none tells."""
    modules = _modules(folder)
    for module in reversed(modules):
        kind = str(module.get("type", "")).rpartition(".")[2]
        config = _json(folder / str(module.get("path", "")) / "config.json")
        if kind == "Dense":
            return _int(config.get("out_features"))
        if kind == "Pooling":
            width = _int(config.get("embedding_dimension", config.get("word_embedding_dimension")))
            return None if width is None else width * _poolings(config)
        if kind not in ("Normalize", "Dropout", "LayerNorm", "Transformer"):
            return None
    config = _json(folder / "config.json")
    return _int(config.get("hidden_size", config.get("d_model", config.get("dim"))))


def _poolings(config: Mapping[str, Any]) -> int:
    mode = config.get("pooling_mode")
    if mode is not None:
        return len(mode) if isinstance(mode, list) else len(str(mode).split("+"))
    return sum(bool(v) for k, v in config.items() if k.startswith("pooling_mode_")) or 1


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _check_weights(folder: Path) -> None:
    """Refuse weights that are cut off: a safetensors file says itself how long it is."""
    for path in folder.rglob("*.safetensors"):
        size = path.stat().st_size
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            try:
                header = json.loads(handle.read(length) if length <= size else b"")
                end = max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
            except (ValueError, KeyError, TypeError):
                end = size
        if 8 + length + end != size:
            raise ModelFormatError(
                f"{path} ({size:,} bytes) is not a whole safetensors file. It may be truncated, or a Git LFS pointer: "
                "copy or download the model again."
            )


def _unused(target: Path, folder: str, names: list[str]) -> set[str]:
    """Say what `shutil.copytree` leaves out: what is not the model, and the target where it lies inside the source."""
    found = set(shutil.ignore_patterns(*_LEFT_OUT)(folder, names))
    found |= {name for name in names if target.is_relative_to(Path(folder) / name)}
    if "model.safetensors" in names:
        found |= {"pytorch_model.bin"} & set(names)  # the same weights, as a pickle
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars, and put that back."""
    logging = need("transformers.utils.logging", extra="sentence-transformers", why=_WHY)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
