"""Exported programs of PyTorch (`torch.export`): their signature is in their graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparkgap._errors import ConfigurationError, ModelFormatError, ModelOutputError
from sparkgap._optional import need
from sparkgap.models._foreign import fixed_batch, reading
from sparkgap.models.base import Packed
from sparkgap.models.outputs import name_outputs
from sparkgap.tensors.spec import Signature, TensorSpec

_FILE = "program.pt2"


def pack(torch: Any, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
    """Save an exported program, or use its file where it is."""
    if "method" in options or "constants" in options:
        raise ConfigurationError(
            "method and constants do not apply to an exported program: it has one call, and its constants were fixed "
            "when it was exported. Leave them out."
        )
    file = source if isinstance(source, Path) else None
    program = _read(torch, file) if file else source
    if file is None:
        torch.export.save(program, folder / _FILE)
    arguments = _arguments(program)
    return Packed(
        "pt2" if file else "exported",
        _signature(torch, program, arguments),
        {"kind": "exported", "arguments": arguments},
        file,
    )


def load(torch: Any, path: Path, meta: Mapping[str, Any], device: Any) -> tuple[Any, Any]:
    """Return the module of a program, and what calls it with tensors by name."""
    program = _read(torch, path / _FILE if path.is_dir() else path)
    if device.type != "cpu":
        passes = need("torch.export.passes", extra="torch", why="to move an exported program to a GPU")
        program = passes.move_to_device_pass(program, str(device))
    module = program.module()  # has no eval(): the mode was fixed when it was exported
    return module, _Call(torch, module, program.call_spec.in_spec, meta["arguments"])


class _Call:
    """Calls a program with tensors by name, arranged in the nesting that it was exported with."""

    def __init__(self, torch: Any, module: Any, spec: Any, arguments: list[list[Any]]) -> None:
        self._unflatten = torch.utils._pytree.tree_unflatten
        self._module = module
        self._spec = spec
        self._arguments = arguments

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        flat = [tensors[value] if kind == "tensor" else value for kind, value in self._arguments]
        args, kwargs = self._unflatten(flat, self._spec)
        return self._module(*args, **kwargs)


def _read(torch: Any, path: Path) -> Any:
    with reading(path.name, "an exported program of PyTorch"):
        return torch.export.load(path)


def _arguments(program: Any) -> list[list[Any]]:
    """List what the call takes, in order: names of tensors, and constants that the export has fixed."""
    found = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name != "USER_INPUT":
            continue
        kind = type(spec.arg).__name__
        if kind not in ("TensorArgument", "ConstantArgument"):
            raise ModelFormatError(
                f"Input `{spec.arg.name}` of the exported program is a {kind}, which no column can feed. Export it "
                "with a tensor or a constant there."
            )
        found.append(["tensor", spec.arg.name] if kind == "TensorArgument" else ["constant", spec.arg.value])
    return found


def _signature(torch: Any, program: Any, arguments: list[list[Any]]) -> Signature:
    values = {n.name: n.meta.get("val") for n in program.graph.nodes}
    inputs = {name: values[name] for kind, name in arguments if kind == "tensor"}
    scalars = [name for name, value in inputs.items() if value.dim() == 0]
    if scalars:
        raise ModelFormatError(
            f"Input `{scalars[0]}` of the exported program is a scalar tensor without a batch axis, which no column "
            "can feed. Export it with a plain Python number there."
        )
    first = {name: _dim(value.shape[0]) for name, value in inputs.items()}
    return Signature(
        tuple(_spec(name, value) for name, value in inputs.items()),
        _outputs(torch, program, values),
        fixed_batch(first, "exported program"),
    )


def _outputs(torch: Any, program: Any, values: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return the specs of the outputs, or none where they are nested: then running the program tells."""
    specs = program.graph_signature.output_specs
    flat = [values.get(s.arg.name) for s in specs if s.kind.name == "USER_OUTPUT"]
    try:
        named = name_outputs(torch.utils._pytree.tree_unflatten(flat, program.call_spec.out_spec))
    except ModelOutputError as error:
        raise ModelFormatError(f"The exported program cannot be used: {error}") from error
    if any(not isinstance(v, torch.Tensor) or v.dim() == 0 for v in named.values()):
        return ()
    return tuple(_spec(name, value) for name, value in named.items())


def _spec(name: str, value: Any) -> TensorSpec:
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, tuple(_dim(d) for d in value.shape[1:]))


def _dim(dim: Any) -> int | None:
    return dim if isinstance(dim, int) else None
