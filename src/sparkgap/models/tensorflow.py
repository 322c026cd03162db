"""TensorFlow: SavedModel folders of any age, and modules and functions that can be saved as one."""

from __future__ import annotations

import logging
import shutil
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError, ModelOutputError
from sparkgap._optional import need
from sparkgap.models._arrays import cast, decode_text, finished
from sparkgap.models._environ import environment
from sparkgap.models._foreign import plain_constants
from sparkgap.models._savedmodel import read_graph, signature_of
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block

_PARTS = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra")


class TensorFlowAdapter(ModelAdapter):
    """SavedModels. The signature is read from the file, without TensorFlow; inputs are sorted by name.

    Framework threads are process-wide and fixed when TensorFlow runs its first operation: the first model that is
    opened in a process sets them.
    """

    name: ClassVar[str] = "tensorflow"
    title: ClassVar[str] = "TensorFlow"
    extra: ClassVar[str] = "tensorflow"
    requires: ClassVar[tuple[str, ...]] = ("tensorflow",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("savedmodel", "SavedModel folder (with `saved_model.pb`), also of TensorFlow 1", "read"),
        Format("module", "`tf.Module` or loaded SavedModel with a signature", "read"),
        Format("function", "`tf.function` with an input signature, or a concrete function", "read"),
    )
    options: ClassVar[Mapping[str, str]] = {
        "signature_key": "which signature of the SavedModel to call; default `serving_default`, else the only one",
        "constants": "values of inputs that are the same for every row, by name",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take a folder with a `saved_model.pb`, and TensorFlow's trackable objects."""
        if isinstance(source, Path):
            return "savedmodel" if (source / "saved_model.pb").is_file() else None
        bases = [f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__]
        if not any(b.startswith("tensorflow.") and b.endswith(".Trackable") for b in bases):
            return None
        return "function" if any(b.startswith("tensorflow.python.types.core.") for b in bases) else "module"

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Copy the folder, or save the object, and read the signature."""
        key, constants = options.get("signature_key"), plain_constants(options)
        form = self.match(source) or "savedmodel"
        if isinstance(source, Path):
            info = read_graph(source)  # before copying: a broken folder should fail at once
            for part in _PARTS:
                # a copy, not a hard link: a model that is saved again over the old one would change the bundle
                if (source / part).is_dir():
                    shutil.copytree(source / part, folder / part)
                elif (source / part).exists():
                    shutil.copy2(source / part, folder / part)
            key, signature = signature_of(source, info, key, constants)
        else:
            _save(source, folder, form)
            info = read_graph(folder)
            if not [k for k in info.signatures if not k.startswith("__")]:
                raise ConfigurationError(_no_signature(source))
            key, signature = signature_of(folder, info, key, constants)
        return Packed(form, signature, {"key": key, "tags": list(info.tags), "constants": constants})

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the SavedModel; files that the loader of TensorFlow 2 refuses go through that of TensorFlow 1."""
        tensorflow = import_tensorflow(runtime)
        device = device_name(runtime.device)
        with _quiet_logger(), tensorflow.device(device):
            try:
                return _FunctionPredictor(tensorflow, path, packed, device)
            except Exception as first:  # whatever type it has: the old loader decides
                try:
                    return _SessionPredictor(tensorflow, path, packed, runtime)
                except Exception as second:
                    raise ModelFormatError(
                        f"The SavedModel {path} cannot be loaded: {_first_line(first)}; and with the loader of "
                        f"TensorFlow 1: {_first_line(second)}. Is a file truncated, or does the model need "
                        f"a newer TensorFlow than {tensorflow.__version__}? Save it anew."
                    ) from first

    def family(self, packed: Packed) -> str | None:
        """TensorFlow shares a process only with Keras models on TensorFlow."""
        return "tensorflow"


def import_tensorflow(runtime: Runtime) -> ModuleType:
    """Import TensorFlow quietly and give it the threads of the task, where it has not started working yet.

    On the cpu device the GPUs stay hidden: TensorFlow would take all of their memory. That and the threads are
    set only where this call is the first to import it, so that a user's own settings stay.
    """
    first = "tensorflow" not in sys.modules
    with environment({"TF_CPP_MIN_LOG_LEVEL": "3"}, keep=True):
        tensorflow = need("tensorflow", extra="tensorflow", why="to run TensorFlow models")
    if not first:
        return tensorflow
    tensorflow.config.threading.set_intra_op_parallelism_threads(runtime.threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    if runtime.device == "cpu":
        tensorflow.config.set_visible_devices([], "GPU")
    else:
        for gpu in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
    return tensorflow


def device_name(device: str) -> str:
    """Translate ``"cuda:1"`` to TensorFlow's ``"/GPU:1"``."""
    kind, _, number = device.partition(":")
    return "/CPU:0" if kind == "cpu" else f"/GPU:{number or 0}"


class _TensorFlowPredictor(Predictor):
    """Casts what goes in as the signature says, and text that comes out."""

    def __init__(self, tensorflow: ModuleType, packed: Packed) -> None:
        self._tensorflow = tensorflow
        self._constants: Mapping[str, Any] = packed.meta["constants"]
        self._inputs = {s.name: s.dtype for s in packed.signature.inputs}
        self._outputs = {s.name: s.dtype for s in packed.signature.outputs}

    def predict(self, block: Block) -> Block:
        feeds = {name: cast(block[name], dtype) for name, dtype in self._inputs.items()}
        found = self._run({**feeds, **self._constants})
        missing = [name for name in self._outputs if name not in found]
        if missing:
            raise ModelOutputError(
                f"The SavedModel returned {', '.join(found)}, without {', '.join(missing)}, which the signature names. "
                "Correct the names of the signature's outputs."
            )
        found = {n: decode_text(found[n]) if d == "str" else found[n] for n, d in self._outputs.items()}
        return {name: finished(array, block.values()) for name, array in found.items()}

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Block:
        """Return every output of the signature."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        exhausted = self._tensorflow.errors.ResourceExhaustedError
        return isinstance(error, exhausted) or super().is_out_of_memory(error)


class _FunctionPredictor(_TensorFlowPredictor):
    def __init__(self, tensorflow: ModuleType, path: Path, packed: Packed, device: str) -> None:
        super().__init__(tensorflow, packed)
        self._device = device
        # the function refers to its variables weakly: the loaded object must live as long as it
        self._model = tensorflow.saved_model.load(str(path), tags=packed.meta["tags"] or None)
        self._function: Callable[..., Mapping[str, Any]] = self._model.signatures[packed.meta["key"]]
        wanted = self._function.structured_input_signature[1]
        self._dtypes = {name: spec.dtype for name, spec in wanted.items()}

    def _run(self, feeds: Mapping[str, Any]) -> Block:
        tensorflow = self._tensorflow
        with tensorflow.device(self._device):
            result = self._function(**{n: tensorflow.constant(a, self._dtypes[n]) for n, a in feeds.items()})
        return {name: np.asarray(tensor.numpy()) for name, tensor in result.items()}


class _SessionPredictor(_TensorFlowPredictor):
    """For files of TensorFlow 1 and of Keras 2, which the loader of today refuses."""

    def __init__(self, tensorflow: ModuleType, path: Path, packed: Packed, runtime: Runtime) -> None:
        super().__init__(tensorflow, packed)
        v1 = tensorflow.compat.v1
        config = v1.ConfigProto(
            intra_op_parallelism_threads=runtime.threads, inter_op_parallelism_threads=1, allow_soft_placement=True
        )
        self._session = v1.Session(graph=tensorflow.Graph(), config=config)
        with self._session.graph.as_default(), tensorflow.device(device_name(runtime.device)):
            graph = v1.saved_model.load(self._session, packed.meta["tags"], str(path))
        chosen = graph.signature_def[packed.meta["key"]]
        self._feeds = {name: info.name for name, info in chosen.inputs.items()}
        self._fetches = {s.name: chosen.outputs[s.name].name for s in packed.signature.outputs if s.name in chosen.outputs}

    def _run(self, feeds: Mapping[str, Any]) -> Block:
        named = {self._feeds[name]: array for name, array in feeds.items()}
        result: Block = self._session.run(self._fetches, named)
        return result

    def close(self) -> None:
        self._session.close()


def _save(source: Any, folder: Path, form: str) -> None:
    tensorflow = need("tensorflow", extra="tensorflow", why="to save a TensorFlow object")
    kinds = tensorflow.types.experimental
    signatures = getattr(source, "signatures", None) or None
    if form == "function":
        if not isinstance(source, kinds.ConcreteFunction):
            if getattr(source, "input_signature", None) is None:
                raise ConfigurationError(_no_signature(source))
            source = source.get_concrete_function()
        holder = tensorflow.Module()
        holder.function, holder.captured = source, list(source.variables)  # only what hangs on an object is saved
        source, signatures = holder, source
    try:
        with _quiet_logger():
            tensorflow.saved_model.save(source, str(folder), signatures=signatures)
    except (ValueError, AssertionError, TypeError) as error:
        raise ModelFormatError(
            f"{source!r} cannot be saved as a SavedModel: {error}. Save it yourself with tf.saved_model.save and "
            "pass the folder."
        ) from error


def _no_signature(source: Any) -> str:
    return (
        f"{source!r} has no signature, so its inputs are not known. Decorate the function with "
        '@tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")]), where the first axis is '
        "the batch, or save the model with tf.saved_model.save(model, path, signatures=…) and pass the folder."
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _quiet_logger() -> Iterator[None]:
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
