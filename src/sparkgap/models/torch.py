"""PyTorch: modules, TorchScript, exported programs, and weights with a factory."""

from __future__ import annotations

import inspect
import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap._optional import need
from sparkgap.models import _torch_export as export
from sparkgap.models import pickling
from sparkgap.models._foreign import plain_constants, reading
from sparkgap.models._torch_formats import UNREADABLE, file_format, object_format
from sparkgap.models._torch_predictor import TorchPredictor, device_of
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.models.function import parameter_names
from sparkgap.tensors.spec import Signature, TensorSpec

_WHY = "to run PyTorch models"
_MODULE, _SCRIPT = "module.pt", "script.pt"
_WEIGHTS = ("safetensors", "state_dict", "pickled")
# Where checkpoints of training loops keep the weights among other things.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict")


class TorchAdapter(ModelAdapter):
    """PyTorch models. Inputs are named by the parameters of `forward`."""

    name: ClassVar[str] = "torch"
    title: ClassVar[str] = "PyTorch"
    extra: ClassVar[str] = "torch"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    formats: ClassVar[tuple[Format, ...]] = (
        Format("module", "`torch.nn.Module` object", "found"),
        Format("scripted", "`torch.jit.ScriptModule` object", "found"),
        Format("exported", "`torch.export.ExportedProgram` object", "read"),
        Format("torchscript", "`.pt`, `.pth`, `.jit` or `.ts` file (TorchScript)", "found", runs_code=True),
        Format("pt2", "`.pt2` file (exported program)", "read", runs_code=True),
        Format("safetensors", "`.safetensors` file with `factory=`", "found"),
        Format("state_dict", "`.pt` or `.pth` file (state dict) with `factory=`", "found"),
        Format("pickled", "`.pt` or `.pth` file (whole module)", "found", runs_code=True),
    )
    options: ClassVar[Mapping[str, str]] = {
        "factory": "function without parameters that returns the module for a file of weights",
        "method": "name of the method to call; default forward",
        "constants": "values of parameters that are the same for every row, by name",
    }
    gpu: ClassVar[bool] = True

    def match(self, source: Any) -> str | None:
        """Take modules, scripts and exported programs, and files by suffix and content."""
        return file_format(source) if isinstance(source, Path) else object_format(source)

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Save a module with its weights; use files of scripts and exported programs where they are."""
        kind = self.match(source)
        if kind == UNREADABLE:
            raise ModelFormatError(
                f"{source.name} ({source.stat().st_size:,} bytes) is no file that PyTorch writes: neither TorchScript, "
                "nor an exported program, nor weights. It may be truncated: copy or save it again."
            )
        torch = need("torch", extra="torch", why=_WHY)
        if "factory" in options and kind not in _WEIGHTS:
            raise ConfigurationError(
                f"factory is for files of weights, and this is a {kind} model, which has its code. Leave it out."
            )
        if kind in ("scripted", "torchscript"):
            return _pack_script(torch, source, folder, options)
        if kind in ("exported", "pt2"):
            return export.pack(torch, source, folder, options)
        module = _with_weights(torch, source, str(kind), options) if isinstance(source, Path) else source
        return _pack_module(torch, module, str(kind), folder, options)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the module on its device, in evaluation mode."""
        torch = need("torch", extra="torch", why=_WHY)
        device = device_of(torch, runtime.device)
        meta, dtypes = packed.meta, {}
        if meta["kind"] == "exported":
            module, call = export.load(torch, path, meta, device)
            dtypes = {s.name: s.dtype for s in packed.signature.inputs if s.dtype}
        else:
            module = _load(torch, path, meta["kind"], device)
            method = module if meta["method"] == "forward" else getattr(module, meta["method"])
            call = _Call(method, meta["constants"])
        return TorchPredictor(
            torch,
            module=module,
            call=call,
            signature=packed.signature,
            dtypes=dtypes,
            device=device,
            threads=runtime.threads,
        )


class _Call:
    """Calls a method with tensors by name, and the constants."""

    def __init__(self, method: Callable[..., Any], constants: Mapping[str, Any]) -> None:
        self._method = method
        self._constants = constants

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        return self._method(**tensors, **self._constants)


def _pack_module(torch: Any, module: Any, kind: str, folder: Path, options: Mapping[str, Any]) -> Packed:
    from pyspark import cloudpickle

    module = getattr(module, "_orig_mod", module)  # what torch.compile wrapped: compiled code does not travel
    method, constants = options.get("method", "forward"), plain_constants(options)
    names = _parameters(module, method, constants)
    try:
        # Protocol 5 because cloudpickle wants it.
        with pickling.local_modules_by_value():
            torch.save(module, folder / _MODULE, pickle_module=cloudpickle, pickle_protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise ModelFormatError(
            f"The module {type(module).__name__} cannot be sent to executors: {error}. Take what cannot be pickled "
            "(locks, files, hooks) out of it, or export it with torch.export and load that."
        ) from error
    meta = {"kind": "module", "method": method, "constants": constants}
    return Packed(kind, Signature(tuple(TensorSpec(n) for n in names)), meta)


def _parameters(module: Any, method: str, constants: Mapping[str, Any]) -> list[str]:
    function = getattr(module, method, None)
    if not callable(function):
        raise ConfigurationError(
            f"method is {method!r}, and {type(module).__name__} has no such method. Leave it out to call forward."
        )
    if method == "forward" and getattr(type(module), method) is _unwritten_forward(module):
        raise ModelFormatError(f"{type(module).__name__} has no forward method. Write one, or name another with method=.")
    taken = inspect.signature(function).parameters
    named = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    unknown = [c for c in constants if c not in taken and not named]
    if unknown:
        raise ConfigurationError(
            f"{type(module).__name__}.{method} has no parameter {', '.join(unknown)}; it has {', '.join(taken)}."
        )
    required = [p for p in taken.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if not required and hasattr(module, "main_input_name"):
        return [str(module.main_input_name)]  # how transformers says which of its many optional inputs counts
    return [n for n in parameter_names(function) if n not in constants]


def _unwritten_forward(module: Any) -> Any:
    base: Any = next(c for c in type(module).__mro__ if c.__module__ == "torch.nn.modules.module")
    return base.forward


def _with_weights(torch: Any, path: Path, kind: str, options: Mapping[str, Any]) -> Any:
    """Return the module of a file: a whole one, or a factory's with the weights loaded, strictly."""
    state: Any = None
    if kind != "safetensors":
        with reading(path.name, "a PyTorch file"):
            state = torch.load(path, map_location="cpu", weights_only=kind == "state_dict")
    if isinstance(state, torch.nn.Module):
        if "factory" in options:
            raise ConfigurationError(f"{path.name} holds a whole module, so factory has no use. Leave it out.")
        return state
    factory = options.get("factory")
    if not callable(factory):
        raise ConfigurationError(
            f"{path.name} holds weights without the code of the module. Pass factory=, a function without "
            f"parameters that returns the module: gap.load({path.name!r}, factory=lambda: MyModule(…))."
        )
    module = factory()
    if not isinstance(module, torch.nn.Module):
        raise ConfigurationError(
            f"factory returned a {type(module).__name__}; it must return the torch.nn.Module for {path.name}."
        )
    with reading(path.name, f"weights of {type(module).__name__}"):
        if kind == "safetensors":
            need("safetensors.torch", extra="torch", why="to read .safetensors files").load_model(module, path)
        else:
            module.load_state_dict(_unwrap(state))
    return module


def _unwrap(state: Any) -> Any:
    return next((state[k] for k in _CHECKPOINT_KEYS if isinstance(state.get(k), Mapping)), state)


def _pack_script(torch: Any, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
    file = source if isinstance(source, Path) else None
    script = _load(torch, file, "script", torch.device("cpu")) if file else source
    method, constants = options.get("method", "forward"), plain_constants(options)
    found: Any = getattr(script, method, None)
    if not hasattr(found, "schema"):
        raise ConfigurationError(f"method is {method!r}, and the script has no such method. Export it with @torch.jit.export.")
    names = _script_inputs(found.schema, constants)
    if file is None:
        with _quiet():
            torch.jit.save(source, str(folder / _SCRIPT))
    meta = {"kind": "script", "method": method, "constants": constants}
    return Packed("torchscript" if file else "scripted", Signature(tuple(TensorSpec(n) for n in names)), meta, file)


def _script_inputs(schema: Any, constants: Mapping[str, Any]) -> list[str]:
    taken = {a.name: a for a in schema.arguments[1:]}
    unknown = [c for c in constants if c not in taken]
    if unknown:
        raise ConfigurationError(f"The script has no parameter {', '.join(unknown)}; it has {', '.join(taken)}.")
    needed = [a for a in taken.values() if not a.has_default_value() and a.name not in constants]
    for argument in needed:
        if "Tensor" not in str(argument.type):
            example = json.dumps({argument.name: 1})
            raise ConfigurationError(
                f"Parameter `{argument.name}` of the script is of type {argument.type}, which no column can feed. "
                f"Give its value for all rows, e.g. constants={example}."
            )
    return [a.name for a in needed]


def _load(torch: Any, path: Path, kind: str, device: Any) -> Any:
    if kind == "script":
        path = path / _SCRIPT if path.is_dir() else path
        with reading(path.name, "a TorchScript file"), _quiet():
            return torch.jit.load(str(path), map_location=device).eval()
    with reading("The bundle", "a PyTorch module"):
        # Our own file, written by the user's own driver. Mapped, so that workers of one machine share its pages.
        file = str(path / _MODULE)
        return torch.load(file, map_location=device, mmap=True, weights_only=False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PyTorch's own advice to users of TorchScript: the choice of format is made."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        yield
