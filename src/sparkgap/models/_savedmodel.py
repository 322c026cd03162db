"""What a SavedModel says of its signatures, read from `saved_model.pb` without TensorFlow.

Only the few fields that matter are read from the protobuf wire format; the rest (the graph) is skipped. So the
driver needs neither TensorFlow nor the seconds that its import takes, and no framework claims the user's process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.models._foreign import fixed_batch
from sparkgap.tensors.spec import Dim, Signature, TensorSpec

_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "str", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_Tensor = tuple[int, tuple[Dim, ...] | None]  # dtype number, shape with the batch axis


@dataclass(frozen=True)
class GraphInfo:
    """One graph of a SavedModel.

    Args:
        tags: its tags, e.g. ``("serve",)``.
        signatures: signature key -> inputs and outputs by name, sorted by name.
        has_variables: whether it needs the `variables` folder.
    """

    tags: tuple[str, ...]
    signatures: dict[str, tuple[dict[str, _Tensor], dict[str, _Tensor]]]
    has_variables: bool


def read_graph(folder: Path) -> GraphInfo:
    """Read the graph tagged ``serve`` (else the first one).

    Raises:
        ModelFormatError: the folder is truncated or not a SavedModel.
    """
    file = folder / "saved_model.pb"
    try:
        graphs = [_graph(body) for body in _parts(memoryview(file.read_bytes()), 2)]
    except (OSError, ValueError, IndexError) as error:
        raise ModelFormatError(
            f"{file} cannot be read as a SavedModel ({error}). It may be truncated: copy it again or save it anew."
        ) from error
    if not graphs:
        raise ModelFormatError(f"{file} holds no graph: it is empty or no SavedModel. Save the model anew.")
    info = next((g for g in graphs if "serve" in g.tags), graphs[0])
    _check_variables(folder, info)
    return info


def signature_of(folder: Path, info: GraphInfo, key: str | None, constants: Collection[str] = ()) -> tuple[str, Signature]:
    """Return the key and the signature to use: `key`, else ``serving_default``, else the only one.

    Args:
        folder: for messages.
        info: what `read_graph` returned.
        key: the user's choice.
        constants: inputs that get one value for all rows: they are left out.

    Raises:
        ConfigurationError: there is no such key or constant, or there are several keys to choose from.
        ModelFormatError: the signature has an input that cannot be fed row by row.
    """
    keys = [k for k in info.signatures if not k.startswith("__")]
    if key is None and "serving_default" not in keys and len(keys) == 1:
        key = keys[0]
    key = key or "serving_default"
    if key not in keys:
        raise ConfigurationError(
            f"{folder} has no signature {key!r}; it has: {', '.join(keys) or 'none'}. Pass one of these as "
            "signature_key=…, or save the model with tf.saved_model.save(model, path, signatures=…)."
        )
    inputs, outputs = info.signatures[key]
    unknown = sorted(set(constants) - set(inputs))
    if unknown:
        raise ConfigurationError(
            f"constants names {', '.join(unknown)}; the inputs of signature {key!r} are {', '.join(inputs)}."
        )
    inputs = {name: tensor for name, tensor in inputs.items() if name not in constants}
    for name, (number, shape) in inputs.items():
        if number not in _DTYPES or shape == ():
            what = "a single value without a batch axis" if shape == () else "no dense tensor of numbers or text"
            raise ModelFormatError(
                f"Input `{name}` of signature {key!r} in {folder} is {what}, so rows cannot feed it. Give it one "
                f"value for all rows with constants={{{name!r}: value}}, or save the model with another signature."
            )
    return key, Signature(
        _specs(inputs),
        _specs({n: t for n, t in outputs.items() if t[0] in _DTYPES and t[1] != ()}),
        fixed_batch({n: shape[0] for n, (_, shape) in inputs.items() if shape}, "SavedModel"),
    )


def _specs(tensors: dict[str, _Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, _DTYPES[number], None if shape is None else shape[1:]) for name, (number, shape) in tensors.items()
    )


def _check_variables(folder: Path, info: GraphInfo) -> None:
    index = folder / "variables" / "variables.index"
    if not info.has_variables or (index.is_file() and any(index.parent.glob("variables.data-*"))):
        return
    raise ModelFormatError(
        f"{folder} is a SavedModel whose weights are missing: got no variables/variables.index with its "
        "variables.data-* files. The folder was copied only in part; copy all of it."
    )


def _graph(body: memoryview) -> GraphInfo:
    tags = [_text(tag) for info in _parts(body, 1) for tag in _parts(info, 4)]
    signatures = {}
    for entry in _parts(body, 5):
        definition = _parts(entry, 2)[0]
        signatures[_text(_parts(entry, 1)[0])] = (_tensors(definition, 1), _tensors(definition, 2))
    return GraphInfo(tuple(tags), signatures, has_variables=bool(_parts(body, 3)))


def _tensors(signature: memoryview, which: int) -> dict[str, _Tensor]:
    found = {_text(_parts(entry, 1)[0]): _tensor(_parts(entry, 2)[0]) for entry in _parts(signature, which)}
    return dict(sorted(found.items()))  # a protobuf map has no order of its own


def _tensor(info: memoryview) -> _Tensor:
    if not _parts(info, 1):  # no name: a sparse or composite tensor
        return 0, None
    number = _integer(info, 2)
    shape: list[Dim] = []
    for message in _parts(info, 3):
        if _integer(message, 3):  # unknown rank
            return number, None
        sizes = [_integer(dim, 1) for dim in _parts(message, 2)]
        shape += [None if size >= 1 << 63 else size for size in sizes]  # -1 means unknown
    return number, tuple(shape)


def _text(data: memoryview) -> str:
    return bytes(data).decode()


def _parts(message: memoryview, number: int) -> list[memoryview]:
    return [value for n, value in _fields(message) if n == number and isinstance(value, memoryview)]


def _integer(message: memoryview, number: int) -> int:
    return next((value for n, value in _fields(message) if n == number and isinstance(value, int)), 0)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Walk the fields of one protobuf message: (number, bytes of it or its integer)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"{length} bytes should follow byte {at}, and there are {len(data) - at}")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
