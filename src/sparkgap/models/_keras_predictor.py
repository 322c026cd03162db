"""Running a Keras model on blocks: one compiled function a backend, and the names of its tensors."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.models._arrays import cast, decode_text, finished
from sparkgap.models._padding import Padding
from sparkgap.models.base import Predictor
from sparkgap.models.outputs import name_outputs
from sparkgap.tensors.spec import NUMERIC, OBJECTS, Block, Dim, Signature, TensorSpec


def signature_of(model: Any) -> Signature:
    """Read the signature of a built model: names of dict keys, else of layers.

    A subclassed model names its inputs by the parameters of its `call`, and its outputs are not known before it runs.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return Signature(tuple(TensorSpec(name, None, shape) for name, shape in _built(model).items()))
    outputs = model.outputs
    batches = {t.shape[0] for t in inputs} - {None}
    return Signature(
        tuple(_spec(n, t) for n, t in zip(_names(model, "_inputs_struct", inputs), inputs, strict=True)),
        tuple(_spec(n, t) for n, t in zip(_names(model, "_outputs_struct", outputs), outputs, strict=True)),
        batches.pop() if len(batches) == 1 else None,
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = {"string": "str"}.get(tensor.dtype, tensor.dtype)
    return TensorSpec(name, dtype if dtype in NUMERIC + OBJECTS else None, tuple(tensor.shape[1:]))


def _names(model: Any, struct: str, tensors: Sequence[Any]) -> list[str]:
    """Name tensors: by key where the model has a flat dict of them, else by the layer that makes them."""
    given = getattr(model, struct, None)
    if isinstance(given, Mapping) and len(given) == len(tensors):
        return [str(k) for k in sorted(given)]  # the order in which Keras flattens a dict
    return _distinct(t._keras_history.operation.name for t in tensors)


def _distinct(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        tried, number = name, 1
        while tried in found:
            tried, number = f"{name}_{number}", number + 1
        found.append(tried)
    return found


def _built(model: Any) -> dict[str, tuple[Dim, ...] | None]:
    """Return the inputs of a subclassed model, with the row shapes that it was built for."""
    config = model.get_build_config() or {}
    shapes = {k.removesuffix("_shape"): v for k, v in (config.get("shapes_dict") or {}).items()}
    parameters = [
        p.name
        for p in inspect.signature(model.call).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and (p.default is p.empty or p.name in shapes)
        if p.name not in ("training", "mask")
    ]
    if len(parameters) == 1:
        shapes.setdefault(parameters[0], config.get("input_shape"))
    return {name: _row_shape(shapes.get(name)) for name in parameters}


def _row_shape(shape: Any) -> tuple[Dim, ...] | None:
    if not isinstance(shape, list | tuple) or not all(d is None or isinstance(d, int) for d in shape):
        return None
    return tuple(shape[1:])


def make_predictor(keras: ModuleType, model: Any, signature: Signature, device: str) -> Predictor:
    """Return the predictor for the backend that Keras runs on."""
    kinds: dict[str, type[_KerasPredictor]] = {
        "tensorflow": _TensorFlowPredictor,
        "jax": _JaxPredictor,
        "torch": _TorchPredictor,
    }
    return kinds[keras.backend.backend()](keras, model, signature, device)


def device_name(device: str, backend: str) -> str:
    """Translate ``"cuda:1"`` to the ``"gpu:1"`` of Keras."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        # for PyTorch, "cpu:0" is another device than "cpu": Keras would move its variables there and lose their type
        return "cpu" if backend == "torch" else "cpu:0"
    return f"gpu:{number or 0}"


class _KerasPredictor(Predictor):
    """Feeds a model in the structure that it was built with and names what it returns."""

    def __init__(self, keras: ModuleType, model: Any, signature: Signature, device: str) -> None:
        self._keras = keras
        self._model = model
        self._device = device
        self._own = signature_of(model)
        # the model's own order: a signature that the user gave may have another
        given = {s.name: s for s in signature.inputs}
        self._inputs = [given.get(s.name, s).merge(s) for s in self._own.inputs]
        self._outputs = [s.name for s in signature.outputs]
        self._symbolic = bool(getattr(model, "inputs", None))

    def predict(self, block: Block) -> Block:
        with self._keras.device(self._device):
            found = self._run({s.name: cast(block[s.name], s.dtype) for s in self._inputs})
        return {name: finished(array, block.values()) for name, array in found.items()}

    def layers(self, names: Sequence[str], block: Block) -> dict[str, np.ndarray]:
        known = [layer.name for layer in self._model.layers]
        missing = [n for n in names if n not in known]
        if missing:
            raise ConfigurationError(f"The model has no layer {', '.join(missing)}; it has {', '.join(known)}.")
        if not self._symbolic:
            raise ConfigurationError("Only functional and sequential Keras models show their layers.")
        probe = self._keras.Model(self._model.inputs, [self._model.get_layer(n).output for n in names])
        with self._keras.device(self._device):
            given = [cast(block[s.name], s.dtype) for s in self._inputs]
            results = self._keras.tree.flatten(probe(given, training=False))
        return {n: self._keras.ops.convert_to_numpy(r) for n, r in zip(names, results, strict=True)}

    @abstractmethod
    def _run(self, block: Block) -> Block:
        """Run the model on a block whose dtypes fit."""

    def _call(self, call: Any, tensors: Mapping[str, Any]) -> Any:
        """Call with the structure that the model wants; return a flat list (known outputs) or what came out."""
        if not self._symbolic:
            return call(**tensors, **self._training())
        struct = getattr(self._model, "_inputs_struct", None)
        flat = [tensors[s.name] for s in self._inputs]  # not the dict's order: JAX sorts the keys of what it traces
        # Sequential models have no struct; a dict is keyed as the model was built
        given = flat[0] if struct is None else self._keras.tree.pack_sequence_as(struct, flat)
        return self._keras.tree.flatten(call(given, training=False))

    def _training(self) -> dict[str, bool]:
        known = inspect.signature(self._model.call).parameters
        return {"training": False} if "training" in known else {}

    def _name(self, result: Any) -> dict[str, Any]:
        if not self._symbolic:
            return name_outputs(tuple(result) if isinstance(result, list) else result, self._outputs)
        names = [s.name for s in self._own.outputs]
        found = dict(zip(names, result, strict=True))
        if not self._outputs or set(self._outputs) <= set(names):
            return {name: found[name] for name in self._outputs or names}
        return name_outputs(tuple(result), self._outputs)  # the user renamed them, in the model's order


class _TensorFlowPredictor(_KerasPredictor):
    def __init__(self, keras: ModuleType, model: Any, signature: Signature, device: str) -> None:
        super().__init__(keras, model, signature, device)
        self._tensorflow = need("tensorflow", extra="tensorflow", why="to run Keras models on TensorFlow")
        tensorflow, names = self._tensorflow, [s.name for s in self._inputs]
        # a free batch axis from the start where the types are known, so that no batch size traces the model again
        free = None
        if all(s.complete for s in self._inputs):
            free = [tensorflow.TensorSpec((self._own.batch, *(s.shape or ())), _tf_dtype(s.dtype)) for s in self._inputs]

        def run(*tensors: Any) -> Any:
            return self._call(self._model, dict(zip(names, tensors, strict=True)))

        self._compiled = tensorflow.function(run, input_signature=free, reduce_retracing=True)

    def _run(self, block: Block) -> Block:
        found = self._name(self._compiled(*(self._tensorflow.constant(array) for array in block.values())))
        return {name: decode_text(np.asarray(tensor.numpy())) for name, tensor in found.items()}

    def is_out_of_memory(self, error: BaseException) -> bool:
        exhausted = self._tensorflow.errors.ResourceExhaustedError
        return isinstance(error, exhausted) or super().is_out_of_memory(error)


class _JaxPredictor(_KerasPredictor):
    def __init__(self, keras: ModuleType, model: Any, signature: Signature, device: str) -> None:
        super().__init__(keras, model, signature, device)
        jax = need("jax", extra="jax", why="to run Keras models on JAX")
        self._padding = Padding()
        # weights are arguments: as constants of the program they would be held twice
        self._weights = ([v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables])

        def run(trainable: Any, fixed: Any, tensors: Any) -> Any:
            return self._call(lambda *a, **k: model.stateless_call(trainable, fixed, *a, **k)[0], tensors)

        self._compiled = jax.jit(run)

    def _run(self, block: Block) -> Block:
        padded, rows, size = self._padding.pad(block)
        found = self._name(self._compiled(*self._weights, padded))
        return self._padding.cut({name: np.asarray(array) for name, array in found.items()}, rows, size)


class _TorchPredictor(_KerasPredictor):
    def __init__(self, keras: ModuleType, model: Any, signature: Signature, device: str) -> None:
        super().__init__(keras, model, signature, device)
        self._torch = need("torch", extra="torch", why="to run Keras models on PyTorch")
        model.eval()
        read_only = np.zeros(1, np.float32)
        read_only.flags.writeable = False
        with warnings.catch_warnings():  # PyTorch warns once a process that such arrays must not be written to
            warnings.simplefilter("ignore")
            self._torch.from_numpy(read_only)

    def _run(self, block: Block) -> Block:
        with self._torch.inference_mode():
            tensors = {name: self._keras.ops.convert_to_tensor(array) for name, array in block.items()}
            found = self._name(self._call(self._model, tensors))
            return {name: self._keras.ops.convert_to_numpy(tensor) for name, tensor in found.items()}


def _tf_dtype(dtype: str | None) -> str:
    return "string" if dtype in OBJECTS else str(dtype)
