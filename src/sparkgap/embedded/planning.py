"""From what the user said to a `TransformPlan`: everything that the driver can check is checked here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sparkgap._errors import ConfigurationError, ModelOutputError, SignatureError
from sparkgap.embedded.plan import Input, Output
from sparkgap.models.model import Model
from sparkgap.tensors.columns import as_decoder
from sparkgap.tensors.decoder import BadRows, Decoder, RaggedRows
from sparkgap.tensors.encode import arrow_type
from sparkgap.tensors.spec import Block, Signature, TensorSpec

Types = Mapping[str, pa.DataType | None]
SAMPLE_ROWS = 2


def plan_inputs(inputs: Any, signature: Signature, types: Types) -> tuple[Input, ...]:
    """Pair the model's input tensors with decoders over columns.

    Args:
        inputs: None (each tensor reads the column of its name), a column name, a list in the model's order, or
            ``{tensor: column | [columns] | decoder}``.
        signature: the model's; its inputs may be incomplete.
        types: column name -> Arrow type.

    Raises:
        ConfigurationError: the pairing does not cover the model's inputs.
        SignatureError: a column does not exist, or cannot feed its tensor.
    """
    specs = {s.name: s for s in signature.inputs}
    pairs = _pair(inputs, list(specs), types)
    found = []
    for name, source in pairs.items():
        decoder = as_decoder(source)
        _check_columns(decoder, types, name)
        known = {c: t for c, t in types.items() if t is not None}
        found.append(Input(decoder.resolve(specs[name], known), decoder))
    return tuple(found)


def unresolved_inputs(inputs: Any, signature: Signature) -> tuple[Input, ...]:
    """Pair tensors with decoders where the columns are not known yet: executors resolve them at the first batch."""
    pairs = _pair(inputs, [s.name for s in signature.inputs], {})
    return tuple(Input(spec, as_decoder(pairs[spec.name])) for spec in signature.inputs)


def _pair(inputs: Any, tensors: list[str], types: Types) -> dict[str, Any]:
    if inputs is None:
        if len(tensors) == 1 and tensors[0] not in types and len(types) == 1:
            return {tensors[0]: next(iter(types))}
        return {name: name for name in tensors}
    if isinstance(inputs, Mapping):
        unknown = [n for n in inputs if n not in tensors]
        missing = [n for n in tensors if n not in inputs]
        if unknown or missing:
            raise ConfigurationError(
                f"The model takes the tensors {', '.join(tensors)}; inputs names {', '.join(inputs) or 'none'}"
                f"{_hint(unknown, tensors)}. Give {{tensor: column}} for each of them."
            )
        return {name: inputs[name] for name in tensors}
    given = [inputs] if isinstance(inputs, str | Decoder) else list(inputs)
    if len(given) == len(tensors):
        return dict(zip(tensors, given, strict=True))
    if len(tensors) == 1 and all(isinstance(g, str) for g in given):
        return {tensors[0]: given}  # several columns, one tensor: stacked
    raise ConfigurationError(
        f"inputs has {len(given)} entries and the model takes {len(tensors)} tensors ({', '.join(tensors)}). Give one "
        "entry a tensor, in that order, or {tensor: column}."
    )


def _check_columns(decoder: Decoder, types: Types, tensor: str) -> None:
    for column in decoder.columns:
        if column not in types:
            raise SignatureError(
                f"There is no column `{column}` for tensor `{tensor}`; the columns are {', '.join(types)}"
                f"{_hint([column], list(types))}. Name the column with inputs={{{tensor!r}: ...}}."
            )
        if types[column] is None:
            raise SignatureError(
                f"Column `{column}` has a type that Spark does not give to Python as Arrow. Cast it before transform."
            )


def _hint(wrong: Sequence[str], known: Sequence[str]) -> str:
    close = [c for w in wrong for c in difflib.get_close_matches(w, known, n=1)]
    return f" (did you mean {', '.join(close)}?)" if close else ""


def complete(model: Model, inputs: tuple[Input, ...], sample: Callable[[], pa.RecordBatch]) -> tuple[Model, tuple[Input, ...]]:
    """Find the outputs of a model that does not tell them, by running one small block on the driver.

    Args:
        model: the model.
        inputs: its inputs; dtypes and ranks are known from the columns.
        sample: gives a few rows of the data; called only where it is needed.

    Raises:
        ConfigurationError: there is no row to run, or the model fails on it.
    """
    if model.signature.outputs and all(s.complete for s in model.signature.outputs):
        return model, inputs
    rows = sample()
    block = _first_good(inputs, rows)
    batch = model.signature.batch
    if batch is not None:
        block = {k: v[:1].repeat(batch, axis=0) for k, v in block.items()}
    try:
        given = model.predict(block, threads=1)
    except ModelOutputError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{k}: {TensorSpec.of(k, v).describe()}" for k, v in block.items())
        raise ConfigurationError(
            f"The model failed on the first rows of the data, which were tried on the driver to find its outputs "
            f"({type(error).__name__}: {error}). It was given {shapes}. If the model is right, pass its signature: "
            "gap.load(model, signature=gap.Signature(inputs=…, outputs=…))."
        ) from error
    outputs = tuple(_found(name, array, next(iter(block.values())).shape[0]) for name, array in given.items())
    declared = {s.name: s for s in model.signature.outputs}
    outputs = tuple(declared[s.name].merge(s) if s.name in declared else s for s in outputs)
    signature = Signature(tuple(i.spec for i in inputs), outputs, batch)
    return model.with_signature(signature), inputs


def _first_good(inputs: tuple[Input, ...], rows: pa.RecordBatch) -> Block:
    """Decode the first row that can be decoded."""
    reasons: list[str] = []
    for number in range(rows.num_rows):
        one = rows.slice(number, 1)
        try:
            return {i.spec.name: i.decoder.decode(one, i.spec) for i in inputs}
        except BadRows as error:
            reasons += error.reasons.values()
        except RaggedRows as error:  # one row cannot be ragged against itself
            raise ConfigurationError(f"A decoder calls a single row ragged: {error.shapes}.") from error
    why = f"none of its first rows can be decoded ({reasons[0]})" if reasons else "it has no rows"
    raise ConfigurationError(
        f"The outputs of this model are found by running a row of the data, and {why}. Pass the signature instead: "
        "gap.load(model, signature=gap.Signature(inputs=…, outputs=…))."
    )


def _found(name: str, array: Any, rows: int) -> TensorSpec:
    if array.ndim == 0 or array.shape[0] != rows:
        raise ModelOutputError(
            f"Output `{name}` has shape {array.shape} for {rows} row(s): its first axis must be the row. "
            "A function must return one entry a row in each of its tensors."
        )
    return TensorSpec.of(name, array)


def plan_outputs(outputs: Any, signature: Signature) -> tuple[Output, ...]:
    """Pair the model's output tensors with columns.

    Args:
        outputs: None (each tensor becomes a column of its name), a name or list of names in the model's order, or
            ``{tensor: column}``, which may leave tensors out. A column may be ``(column, "binary")`` for raw bytes.
        signature: complete.

    Raises:
        ConfigurationError: a tensor that the model does not give, or a wrong number of names.
    """
    specs = {s.name: s for s in signature.outputs}
    if outputs is None:
        pairs: dict[str, Any] = {name: name for name in specs}
    elif isinstance(outputs, Mapping):
        unknown = [n for n in outputs if n not in specs]
        if unknown:
            raise ConfigurationError(
                f"The model has no output {', '.join(unknown)}; it gives {', '.join(specs)}{_hint(unknown, list(specs))}."
            )
        pairs = dict(outputs)
    else:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        if len(names) != len(specs):
            raise ConfigurationError(
                f"outputs names {len(names)} columns and the model gives {len(specs)} tensors ({', '.join(specs)}). Give one "
                "name a tensor, in that order, or {tensor: column} for those that you want."
            )
        pairs = dict(zip(specs, names, strict=True))
    return tuple(_output(specs[tensor], column) for tensor, column in pairs.items())


def _output(spec: TensorSpec, column: Any) -> Output:
    name, encoding = column if isinstance(column, tuple) else (column, "array")
    output = Output(replace(spec), name, encoding)
    arrow_type(output.spec, encoding)  # fails here, on the driver, for what Spark has no type for
    return output


def plan_keep(keep: Any, types: Types, default: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the columns that stay: those named, else the source's default, else all.

    Raises:
        SignatureError: there is no such column.
    """
    if keep is None:
        return tuple(types) if default is None else default
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in types:
            raise SignatureError(
                f"keep names column `{name}`, and the columns are {', '.join(types)}{_hint([name], list(types))}."
            )
    return names


def check_names(keep: Sequence[str], outputs: Sequence[Output], error_column: str | None) -> None:
    """Refuse a result with two columns of the same name (Spark compares names without case).

    Raises:
        ConfigurationError: two columns would have the same name.
    """
    names = [*keep, *(o.column for o in outputs), *([error_column] if error_column is not None else [])]
    lower = [n.lower() for n in names]
    twice = sorted({n for n in names if lower.count(n.lower()) > 1})
    if twice:
        raise ConfigurationError(
            f"The result would have more than one column named {', '.join(twice)}. Rename the output, "
            f"e.g. outputs=[{twice[0] + '_out'!r}], or leave the column out of keep."
        )
