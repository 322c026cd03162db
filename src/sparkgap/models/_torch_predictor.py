"""Running PyTorch models on blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, ModelOutputError
from sparkgap.models._arrays import finished
from sparkgap.models._foreign import cuda_index
from sparkgap.models.base import Predictor
from sparkgap.models.outputs import name_outputs
from sparkgap.tensors.spec import Block, Signature


class TorchPredictor(Predictor):
    """A module on its device.

    Args:
        torch: the package.
        module: the loaded module.
        call: runs it on tensors by name.
        signature: names the inputs, and the outputs where they are known.
        dtypes: dtype names of inputs, where the model fixes them; the others follow the module's weights.
        device: a `torch.device`.
        threads: how many threads operators may use.
    """

    def __init__(
        self,
        torch: Any,
        *,
        module: Any,
        call: Callable[[Mapping[str, Any]], Any],
        signature: Signature,
        dtypes: Mapping[str, str],
        device: Any,
        threads: int,
    ) -> None:
        self._torch = torch
        self._module = module
        self._call: Any = call
        self._inputs = [s.name for s in signature.inputs]
        self._outputs = [s.name for s in signature.outputs]
        self._dtypes = {name: getattr(torch, dtype) for name, dtype in dtypes.items()}
        self._floating = next((t.dtype for t in module.parameters() if t.is_floating_point()), None)
        self._device = device
        self._threads = threads
        # Whether the model writes into its inputs, which may be Arrow's memory. Not known before the first call.
        self._writes: bool | None = None
        _prepare(torch)

    def predict(self, block: Block) -> Block:
        torch = self._torch
        if torch.get_num_threads() != self._threads:  # another model of this process may have set it
            torch.set_num_threads(self._threads)
        # Made outside of inference mode: only then do tensors count the writes into them.
        tensors = {name: self._tensor(name, block[name]) for name in self._inputs}
        before = {name: t._version for name, t in tensors.items()}
        with torch.inference_mode():
            result = self._call(tensors)
            outputs = {name: _to_numpy(torch, name, v) for name, v in self._named(result).items()}
        written = any(t._version != before[name] for name, t in tensors.items())
        self._writes = bool(self._writes) or written
        return {name: finished(array, block.values()) for name, array in outputs.items()}

    def layers(self, names: Sequence[str], block: Block) -> dict[str, np.ndarray]:
        torch, found = self._torch, {}
        modules = dict(self._module.named_modules())
        missing = [n for n in names if n not in modules]
        if missing:
            known = ", ".join(n for n in modules if n) or "none with a name"
            raise ConfigurationError(f"The module has no layer {', '.join(missing)}; it has {known}.")

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: Any, _given: Any, result: Any) -> None:
                tensors = result if isinstance(result, tuple | list) else (result,)
                if tensors and torch.is_tensor(tensors[0]):  # of several results, the first
                    found[name] = tensors[0].detach().float().cpu().numpy()

            return hook

        hooks = [modules[n].register_forward_hook(keep(n)) for n in names]
        try:
            self.predict(block)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _tensor(self, name: str, array: np.ndarray) -> Any:
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        dtype = tensor.dtype
        if tensor.is_floating_point():
            dtype = self._dtypes.get(name) or self._floating or dtype
        moved = tensor.to(device=self._device, dtype=dtype)
        return moved.clone() if moved is tensor and self._writes is not False else moved

    def _named(self, result: Any) -> dict[str, Any]:
        if dataclasses.is_dataclass(result) and not hasattr(result, "keys"):
            result = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        elif hasattr(result, "_asdict"):
            result = result._asdict()
        named = name_outputs(result, () if isinstance(result, Mapping) else self._outputs)
        # Of many named results only those are converted that the signature asks for.
        missing = [n for n in self._outputs if n not in named]
        if missing:
            raise ModelOutputError(
                f"The module returned {', '.join(named)}, without {', '.join(missing)}, which the signature names. "
                "Correct the names of the signature's outputs."
            )
        return {n: named[n] for n in self._outputs} if self._outputs else named

    def is_out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, self._torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return True
        return super().is_out_of_memory(error)

    def close(self) -> None:
        self._module = self._call = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


def device_of(torch: Any, device: str) -> Any:
    """Return the `torch.device`.

    Raises:
        ConfigurationError: there is no such device in this process.
    """
    index = cuda_index(device, "PyTorch")
    if index is None:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        raise ConfigurationError(
            f"Device {device!r} was asked for, and PyTorch sees {count} CUDA devices in this process (PyTorch "
            f"{torch.__version__} {built}). Use device='cpu', or give the task a GPU and a CUDA build of PyTorch."
        )
    return torch.device("cuda", index)


def _to_numpy(torch: Any, name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray | float | int | bool):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise ModelOutputError(
            f"Output `{name}` of the module is a {type(value).__name__}, not a tensor. Return a tensor there, or name "
            "the outputs that you want in the signature."
        )
    if value.layout is not torch.strided:
        value = value.to_dense()
    if value.dtype == torch.bfloat16:  # numpy has none
        value = value.float()
    array: np.ndarray = value.numpy(force=True)
    return array


def _prepare(torch: Any) -> None:
    """Set what belongs to the process: no pool for independent operators, no warning of read-only arrays."""
    if torch.get_num_interop_threads() != 1:
        with contextlib.suppress(RuntimeError):  # the user's own code has started that pool: it stays as it is
            torch.set_num_interop_threads(1)
    read_only = np.zeros(1, np.float32)
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        # PyTorch says this once a process. Writes into read-only arrays are caught by `predict`.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        torch.from_numpy(read_only)
