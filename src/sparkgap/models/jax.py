"""JAX: functions with parameters, flax and equinox modules, and programs of `jax.export`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError, ModelError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models._arrays import cast, finished
from sparkgap.models._environ import environment
from sparkgap.models._foreign import reading
from sparkgap.models._jax_export import exported_call, exported_signature, named_leaves
from sparkgap.models._padding import Padding
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.models.function import parameter_names
from sparkgap.models.outputs import name_outputs
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_EXPORT = "program.jaxexport"
_PROGRAM = "program.pkl"
_PARAMS = "params.pkl"
_MODULES = {"flax.linen.module.Module": "linen", "flax.nnx.module.Module": "nnx", "equinox": "equinox"}
_Call = Callable[[Any, dict[str, Any]], Any]  # parameters, tensors by name -> what the model returns


class JaxAdapter(ModelAdapter):
    """JAX programs, compiled with `jax.jit` once for each batch size.

    So that a short last batch costs no compilation, a block is filled up to a size that was seen before and the rows
    that were added are cut off (`pad=False` turns that off, for models whose rows depend on each other). JAX keeps its
    64-bit types off unless the user turned them on: float64 becomes float32, and integers must fit in 32 bits.
    Threads are process-wide and fixed when JAX starts: the first model that is opened in a process sets them.
    """

    name: ClassVar[str] = "jax"
    title: ClassVar[str] = "JAX"
    extra: ClassVar[str] = "jax"
    requires: ClassVar[tuple[str, ...]] = ("jax",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("function", "`jax.jit` function (any function with adapter='jax'), its parameters as `params`", "found"),
        Format("linen", "flax.linen module, its variables as `params`", "found"),
        Format("nnx", "flax.nnx module", "found"),
        Format("equinox", "equinox module", "found"),
        Format("exported", "`jax.export` program", "read"),
        Format("export-file", "`.jaxexport` or `.jax` file (any file with adapter='jax') of a `jax.export` program", "read"),
    )
    options: ClassVar[Mapping[str, str]] = {
        "params": "the first argument of the function, any pytree of arrays: the weights",
        "vmap": "True: the function takes one row, and is mapped over the rows of a block",
        "pad": "False: never fill a block up to a batch size that is compiled already",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take jitted functions, exported programs, modules of flax and equinox, and files by suffix."""
        if isinstance(source, Path):
            return "export-file" if source.is_file() and source.suffix.lower() in (".jax", ".jaxexport") else None
        kind = type(source)
        bases = [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__]
        for base, form in _MODULES.items():
            if any(b == base or (b.endswith("Module") and b.startswith(f"{base}._module")) for b in bases):
                return form
        if "jax._src.export._export.Exported" in bases or "jax.export.Exported" in bases:
            return "exported"
        ours = kind.__module__.partition(".")[0] in ("jax", "jaxlib", "flax", "equinox")
        if inspect.ismethod(source) and self.match(source.__self__) == "linen":
            return "linen" if source.__name__ == "apply" else None
        return "function" if ours and callable(source) else None

    def match_named(self, source: Any) -> str | None:
        """Take any file and any function, too."""
        if isinstance(source, Path):
            return "export-file" if source.is_file() else None
        return self.match(source) or ("function" if callable(source) else None)

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Pickle what the user holds; use the file of an exported program where it is."""
        form = self.match_named(source) or "function"
        meta = {"vmap": bool(options.get("vmap", False)), "pad": bool(options.get("pad", True)), "file": True}
        params = options.get("params")
        if form in ("exported", "export-file"):
            return _pack_export(source, folder, form, params, meta)
        jax = import_jax(Runtime())
        call: Any = source
        if form == "linen":
            call = getattr(source, "__self__", source)
            if params is None:
                raise ConfigurationError(
                    "A flax.linen module has no weights of its own: pass its variables, load(module, params=variables)."
                )
        elif form in ("nnx", "equinox"):
            if params is not None:
                raise ConfigurationError(f"params does not apply to a module of {form}: it holds its own weights.")
            call, params = _split(form, source)
        names = parameter_names(call if form == "linen" else source)
        if form == "function" and params is not None:
            names = names[1:]
        if not names:
            raise ConfigurationError(
                f"{source!r} takes only its params, so it has no input. Give it one named parameter an input tensor, "
                "after the params."
            )
        _pickle(folder / _PROGRAM, call, f"The {form} {getattr(source, '__name__', type(source).__name__)}")
        _pickle(folder / _PARAMS, _to_numpy(jax, params), "params")
        return Packed(form, Signature(tuple(TensorSpec(n) for n in names)), {**meta, "params": params is not None})

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the program and its weights onto the device."""
        jax = import_jax(runtime)
        device = _device(jax, runtime.device)
        with jax.default_device(device):
            params = _unpickle(path / _PARAMS) if path.is_dir() and (path / _PARAMS).exists() else None
            if packed.format in ("exported", "export-file"):
                call = exported_call(jax, path / _EXPORT if path.is_dir() else path, params is not None)
            else:
                call, params = _join(packed, _unpickle(path / _PROGRAM), params)
            return _JaxPredictor(jax, call, jax.device_put(params, device), packed, device)


def import_jax(runtime: Runtime) -> ModuleType:
    """Import JAX and start it, with the threads of the task and, on the cpu, without touching a GPU.

    What the user set (JAX_PLATFORMS, XLA_PYTHON_CLIENT_PREALLOCATE) stays; a JAX that runs already stays as it is.
    """
    settings = {"JAX_PLATFORMS": "cpu"} if runtime.device == "cpu" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # NPROC is what XLA's CPU client reads for the size of its thread pool, when it starts
    with environment(settings, keep=True), environment({"NPROC": str(runtime.threads)}):
        jax = need("jax", extra="jax", why="to run JAX models")
        jax.devices()
    return jax


class _JaxPredictor(Predictor):
    def __init__(self, jax: ModuleType, call: _Call, params: Any, packed: Packed, device: Any) -> None:
        self._jax = jax
        self._params = params
        self._device = device
        self._inputs = {s.name: s.dtype for s in packed.signature.inputs}
        self._outputs = [s.name for s in packed.signature.outputs]
        self._padding = Padding() if packed.meta["pad"] else None
        run = call
        if packed.meta["vmap"]:

            def run(params: Any, tensors: dict[str, Any]) -> Any:
                return jax.vmap(lambda row: call(params, row))(tensors)

        self._compiled = jax.jit(run)

    def predict(self, block: Block) -> Block:
        feeds = {name: self._narrow(name, cast(block[name], dtype)) for name, dtype in self._inputs.items()}
        rows = size = 0
        if self._padding is not None:
            feeds, rows, size = self._padding.pad(feeds)
        with self._jax.default_device(self._device):
            result = self._compiled(self._params, feeds)
        found = {name: np.asarray(leaf) for name, leaf in named_leaves(self._jax, result).items()}
        if self._outputs and not set(self._outputs) <= set(found):
            found = name_outputs(tuple(found.values()), self._outputs)  # the user renamed them, in order
        found = Padding.cut({n: found[n] for n in self._outputs or found}, rows, size)
        return {name: finished(array, block.values()) for name, array in found.items()}

    def _narrow(self, name: str, array: np.ndarray) -> np.ndarray:
        """Make the 32-bit integers that JAX would make in silence, or say that a value does not fit."""
        if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or self._jax.config.jax_enable_x64:
            return array
        narrow = np.dtype(np.int32 if array.dtype.kind == "i" else np.uint32)
        limits = np.iinfo(narrow)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise ModelError(
                f"Input `{name}` holds {array.dtype.name} values beyond {narrow.name} (got {array.min()} … {array.max()}), "
                "and JAX has its 64-bit types off. Set JAX_ENABLE_X64=1 on every executor, or cast the column."
            )
        return array.astype(narrow)


def _pack_export(source: Any, folder: Path, form: str, params: Any, meta: dict[str, Any]) -> Packed:
    import_jax(Runtime())
    from jax import export

    file = source if isinstance(source, Path) else None
    if isinstance(source, Path):
        with reading(source.name, "a program of jax.export"):
            program = export.deserialize(bytearray(source.read_bytes()))
    else:
        program = source
    if file is None or params is not None:
        with reading("The exported program", "something that can be saved"):
            (folder / _EXPORT).write_bytes(program.serialize())
        file = None
    if params is not None:
        _pickle(folder / _PARAMS, _to_numpy(need("jax", extra="jax", why="to pack parameters"), params), "params")
    return Packed(form, exported_signature(program, params is not None), meta, file)


def _split(form: str, module: Any) -> tuple[Any, Any]:
    """Take the weights out of a module that holds its own: (the rest, the weights)."""
    if form == "nnx":
        graph, state = need("flax.nnx", extra="jax", why="to pack a flax module").split(module)
        return graph, state
    equinox = need("equinox", extra="jax", why="to pack an equinox module")
    weights, rest = equinox.partition(module, equinox.is_array)
    return rest, weights


def _join(packed: Packed, program: Any, params: Any) -> tuple[_Call, Any]:
    """Make the call of a program, and its weights as they are when it is used for inference."""
    if packed.format == "nnx":
        nnx = need("flax.nnx", extra="jax", why="to run a flax module")
        module = nnx.merge(program, params)
        module.eval()  # dropout off, batch norm on its running averages
        graph, state = nnx.split(module)
        return lambda p, tensors: nnx.merge(graph, p)(**tensors), state
    if packed.format == "equinox":
        equinox = need("equinox", extra="jax", why="to run an equinox module")
        module = equinox.nn.inference_mode(equinox.combine(params, program))
        weights, rest = equinox.partition(module, equinox.is_array)
        return lambda p, tensors: equinox.combine(p, rest)(**tensors), weights
    if packed.format == "linen":
        return lambda p, tensors: program.apply(p, **tensors), params
    if packed.meta["params"]:
        return lambda p, tensors: program(p, **tensors), params
    return lambda p, tensors: program(**tensors), None


def _to_numpy(jax: ModuleType, params: Any) -> Any:
    """Replace JAX's arrays: their pickles are for one version of JAX, those of numpy for any. Typed keys stay."""

    def convert(leaf: Any) -> Any:
        plain = isinstance(leaf, jax.Array) and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(leaf) if plain else leaf

    return jax.tree.map(convert, params)


def _pickle(path: Path, value: Any, what: str) -> None:
    import pickle

    from pyspark import cloudpickle

    try:
        path.write_bytes(cloudpickle.dumps(value))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ModelFormatError(
            f"{what} cannot be sent to executors: {error}. Pass arrays as params=, and open what it captures (files, "
            "locks, sessions) inside the function."
        ) from error


def _unpickle(path: Path) -> Any:
    import pickle

    return pickle.loads(path.read_bytes())  # packed by the user's own driver


def _device(jax: ModuleType, device: str) -> Any:
    kind, _, number = device.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        have = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise ConfigurationError(
            f"JAX has no device {device!r} in this process; it has {have}. Install the CUDA build of JAX there, or use "
            "device='cpu'."
        ) from error
