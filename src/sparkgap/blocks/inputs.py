"""Which columns feed a program's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap.embedded import planning
from sparkgap.embedded.plan import Input
from sparkgap.tensors.columns import Column, as_decoder
from sparkgap.tensors.decoder import Decoder, RaggedRows
from sparkgap.tensors.kinds import row_shape
from sparkgap.tensors.spec import Dim, Signature, TensorSpec

Shapes = Mapping[str, tuple[Dim, ...]]
"""Column -> the cell shape that its metadata tell."""


@dataclass(frozen=True)
class Block(Decoder):
    """What another decoder gives, where all cells of a block have one shape."""

    inner: Decoder

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the inner decoder."""
        return self.inner.columns

    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Return the tensor of the inner decoder; see `Decoder.resolve`."""
        return self.inner.resolve(spec, types)

    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the tensor of the inner decoder; see `Decoder.decode`.

        Raises:
            DataError: the cells are of different shapes.
        """
        try:
            return self.inner.decode(batch, spec)
        except RaggedRows as ragged:
            shapes = sorted(set(ragged.shapes))
            raise DataError(
                f"The cells for parameter `{spec.name}` (column {', '.join(map(repr, self.columns))}) have "
                f"different shapes in one block, e.g. {shapes[0]} and {shapes[-1]}, and a block is one tensor. "
                "Use gap.map_rows, or make the cells equally long."
            ) from ragged


def plan_inputs(
    signature: Signature, feed: Mapping[str, Any] | None, types: planning.Types, shapes: Shapes, *, block: bool
) -> tuple[Input, ...]:
    """Pair each parameter with the decoder of its column.

    Args:
        signature: the program's: its parameters.
        feed: ``{parameter: column | [columns] | decoder}`` for those whose column has another name.
        types: column -> Arrow type.
        shapes: what is known of the shapes of cells.
        block: whether all cells of a block must have one shape.

    Raises:
        ConfigurationError: `feed` names a parameter that the program does not have.
        SignatureError: there is no such column, or it holds no tensors.
    """
    names = [s.name for s in signature.inputs]
    sources = _sources(names, feed, types)
    specs = [_known(spec, sources[spec.name], types, shapes) for spec in signature.inputs]
    if block:
        sources = {name: Block(decoder) for name, decoder in sources.items()}
    return planning.plan_inputs(sources, Signature(tuple(specs)), types)


def _sources(names: list[str], feed: Mapping[str, Any] | None, types: planning.Types) -> dict[str, Decoder]:
    given = dict(feed or {})
    unknown = [n for n in given if n not in names]
    if unknown:
        raise ConfigurationError(
            f"feed names the parameter {', '.join(unknown)}, and the program takes {', '.join(names) or 'none'}. "
            "Give {parameter: column}."
        )
    sources = {name: as_decoder(given.get(name, name)) for name in names}
    for name, decoder in sources.items():
        for column in decoder.columns:
            if column not in types:
                raise SignatureError(
                    f"Parameter `{name}` of the program wants column `{column}`, and the columns are "
                    f"{', '.join(types) or 'none'}. Name the parameter after a column, or pass feed={{{name!r}: column}}."
                )
    return sources


def _known(spec: TensorSpec, decoder: Decoder, types: planning.Types, shapes: Shapes) -> TensorSpec:
    """Complete a spec by what the metadata of its column tell."""
    if not isinstance(decoder, Column) or decoder.name not in shapes or spec.shape is not None:
        return spec
    shape, kind = shapes[decoder.name], types[decoder.name]
    nested = pa.types.is_struct(kind) or len(row_shape(kind)) == len(shape)  # vectors are structs
    return spec.merge(TensorSpec(spec.name, None, shape)) if nested else spec
