"""ONNX files and `onnx.ModelProto` objects, run by ONNX Runtime."""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models._arrays import finished
from sparkgap.models._foreign import cuda_index, fixed_batch, plain_constants, reading
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_FILE = "model.onnx"
_WEIGHTS = "weights.bin"
_WHY = "to run ONNX models"
# A protobuf message ends at 2 GiB; larger models keep their weights in a file beside it.
_PROTO_LIMIT = 2**31 - 1
# How ONNX writes the name of a weights file: entry {1: "location", 2: name}, lengths as one or two bytes.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "str",
    **{f"tensor({name})": name for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}
# What converters of classical models put out for probabilities: a mapping from class to value for each row.
_ROW_MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")


class OnnxAdapter(ModelAdapter):
    """ONNX models; names, dtypes and shapes are read from the model."""

    name: ClassVar[str] = "onnx"
    title: ClassVar[str] = "ONNX Runtime"
    extra: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("file", "`.onnx` file, with weight files beside it if it has any", "read"),
        Format("proto", "`onnx.ModelProto` object", "read"),
    )
    options: ClassVar[Mapping[str, str]] = {
        "outputs": "names of the outputs to compute; default all",
        "constants": "values of inputs that are the same for every row, by name",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take `.onnx` files and `onnx.ModelProto` objects."""
        if isinstance(source, Path):
            return "file" if source.suffix.lower() == ".onnx" and source.is_file() else None
        kind = type(source)
        is_proto = kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"
        return "proto" if is_proto else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Use a single file where it is; copy it where it has weight files beside it."""
        file: Path | None = None
        if not isinstance(source, Path):
            path = _write_proto(source, folder)
        elif weights := _weight_files(source):
            path = _copy(source, weights, folder)
        else:
            path = file = source
        constants = plain_constants(options)
        session = _session(path, Runtime(), optimize=False)
        signature = _signature(session, _chosen(session, options.get("outputs")), constants)
        meta = {"constants": constants, "file": None if file else path.name}
        return Packed("file" if isinstance(source, Path) else "proto", signature, meta, file)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Create an inference session."""
        name = packed.meta["file"]
        file = path / name if name else path
        session = _session(file, runtime, optimize=True)
        return _OnnxPredictor(session, packed.signature, packed.meta["constants"], file)


class _OnnxPredictor(Predictor):
    def __init__(self, session: Any, signature: Signature, constants: Mapping[str, Any], file: Path) -> None:
        self._session = session
        self._file = file
        types = {i.name: _numpy_type(_DTYPES[i.type]) for i in session.get_inputs()}
        self._types = {s.name: types[s.name] for s in signature.inputs}
        self._constants = {k: np.asarray(v, types[k]) for k, v in constants.items()}
        # Outputs that the user left out are not computed.
        self._outputs = [s.name for s in signature.outputs] or [o.name for o in session.get_outputs()]
        self._maps = {o.name for o in session.get_outputs() if o.type in _ROW_MAPS}

    def predict(self, block: Block) -> Block:
        feed = {name: block[name].astype(kind, copy=False) for name, kind in self._types.items()}
        results = self._session.run(self._outputs, {**feed, **self._constants})
        named = zip(self._outputs, results, strict=True)
        return {k: finished(_rows(v) if k in self._maps else v, block.values()) for k, v in named}

    def layers(self, names: Sequence[str], block: Block) -> dict[str, np.ndarray]:
        probe = _probe(self._file, names)
        feed = {name: block[name].astype(kind, copy=False) for name, kind in self._types.items()}
        return dict(zip(names, probe.run(list(names), {**feed, **self._constants}), strict=True))

    def is_out_of_memory(self, error: BaseException) -> bool:
        return "Failed to allocate memory" in str(error) or super().is_out_of_memory(error)

    def close(self) -> None:
        self._session = None


def _session(path: Path, runtime: Runtime, *, optimize: bool) -> Any:
    ort = need("onnxruntime", extra="onnx", why=_WHY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins while it waits takes the core of another task.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(ort, runtime.device)
    with reading(path.name, "an ONNX model"):
        session = ort.InferenceSession(str(path), sess_options=options, providers=providers)
    if runtime.device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise ConfigurationError(
            f"ONNX Runtime could not start its CUDA provider for device {runtime.device!r} and would run on the "
            "CPU. Install the CUDA and cuDNN libraries that this onnxruntime-gpu wants, or use device='cpu'."
        )
    return session


def _probe(file: Path, names: Sequence[str]) -> Any:
    """Open the model once more, with these tensors as outputs, on the CPU."""
    try:
        import onnx
    except ImportError:
        raise ConfigurationError("To show the layers of an ONNX model, package onnx is needed: pip install onnx.") from None
    ort = need("onnxruntime", extra="onnx", why=_WHY)
    model = onnx.load(str(file))
    known = [name for node in model.graph.node for name in node.output if name]
    missing = [n for n in names if n not in known]
    if missing:
        raise ConfigurationError(f"The model has no tensor {', '.join(missing)}; it has {', '.join(known)}.")
    here = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in here)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _providers(ort: Any, device: str) -> list[Any]:
    index = cuda_index(device, "ONNX Runtime")
    if index is None:
        return ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise ConfigurationError(
            f"Device {device!r} was asked for, and this ONNX Runtime has only {', '.join(available)}. "
            "Install onnxruntime-gpu instead of onnxruntime, or use device='cpu'."
        )
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _signature(session: Any, outputs: list[Any], constants: Mapping[str, Any]) -> Signature:
    known = {i.name: i for i in session.get_inputs()}
    unknown = sorted(set(constants) - set(known))
    if unknown:
        raise ConfigurationError(f"The model has no input {', '.join(unknown)}; it has {', '.join(known)}.")
    inputs = [i for i in known.values() if i.name not in constants]
    first = {i.name: _dim(i.shape[0]) for i in inputs if i.shape}
    return Signature(
        tuple(_spec(i, "input") for i in inputs),
        tuple(_spec(o, "output") for o in outputs),
        fixed_batch(first, "ONNX model"),
    )


def _chosen(session: Any, names: Any) -> list[Any]:
    known = {o.name: o for o in session.get_outputs()}
    wanted = [names] if isinstance(names, str) else list(names or known)
    unknown = [n for n in wanted if n not in known]
    if unknown:
        raise ConfigurationError(
            f"outputs names {', '.join(map(repr, unknown))}; the model's outputs are {', '.join(map(repr, known))}."
        )
    return [known[n] for n in wanted]


def _spec(node: Any, kind: str) -> TensorSpec:
    if kind == "output" and node.type in _ROW_MAPS:
        return TensorSpec(node.name, "float32", (None,))
    if node.type not in _DTYPES:
        remedy = "Leave it out with outputs=[…]" if kind == "output" else "Export the model with another input type"
        raise ModelFormatError(
            f"The {kind} `{node.name}` of this ONNX model is a {node.type}, which cannot cross between columns "
            f"and tensors. {remedy}."
        )
    # An empty shape says either "scalar" or "not known": leave it open.
    shape = tuple(_dim(d) for d in node.shape[1:]) if node.shape else None
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _dim(dim: Any) -> int | None:
    return dim if isinstance(dim, int) and dim >= 0 else None


def _numpy_type(dtype: str) -> np.dtype[Any]:
    return np.dtype(object if dtype == "str" else dtype)


def _rows(maps: list[dict[Any, float]]) -> np.ndarray:
    """Make a matrix, one column a class in ascending order, of one mapping a row."""
    return np.array([[row[k] for k in sorted(row)] for row in maps], np.float32)


def _write_proto(proto: Any, folder: Path) -> Path:
    path = folder / _FILE
    if proto.ByteSize() < _PROTO_LIMIT:
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return path
    onnx = need("onnx", extra="onnx", why="to save an ONNX model of 2 GiB or more")
    copy = type(proto)()
    copy.CopyFrom(proto)  # saving moves the weights out of the object that it is given
    onnx.save_model(copy, str(path), save_as_external_data=True, location=_WEIGHTS)
    return path


def _weight_files(path: Path) -> list[PurePosixPath]:
    """Find the names of the files beside an ONNX file that hold its weights, without parsing all of it."""
    if path.stat().st_size == 0:
        raise ModelFormatError(f"{path.name} cannot be read as an ONNX model: it is empty. Export it again.")
    names = set()
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in _LOCATION.finditer(data):
            size = found[1]
            length = size[0] if len(size) == 1 else (size[0] & 0x7F) | size[1] << 7
            names.add(data[found.end() : found.end() + length].decode("utf-8", "replace"))
    return [PurePosixPath(n) for n in sorted(names)]


def _copy(source: Path, weights: list[PurePosixPath], folder: Path) -> Path:
    for name in weights:
        if name.is_absolute() or ".." in name.parts:
            raise ModelFormatError(f"{source.name} keeps weights in {name}, outside of its folder. Export it again.")
        if not (source.parent / name).is_file():
            raise ModelFormatError(
                f"{source.name} keeps weights in {name}, and there is no such file beside it. Copy it there too."
            )
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, target)
    return Path(shutil.copyfile(source, folder / source.name))
