"""The plan of an embedded transform: one frozen, picklable value that the driver makes and executors run."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from sparkgap.embedded.options import Batching, OnError, Sampling
from sparkgap.models.bundle import BundleRef
from sparkgap.monitor.wire import Address
from sparkgap.tensors.decoder import Decoder
from sparkgap.tensors.encode import Encoding, arrow_type
from sparkgap.tensors.spec import Signature, TensorSpec


@dataclass(frozen=True)
class Input:
    """One input tensor and the decoder that makes it from columns."""

    spec: TensorSpec
    decoder: Decoder


@dataclass(frozen=True)
class Output:
    """One output tensor and the column it becomes.

    Args:
        spec: the tensor.
        column: name of the column.
        encoding: ``"array"`` (nested arrays), ``"binary"`` (little-endian raw bytes) or ``"vector"`` (Spark ML vector).
    """

    spec: TensorSpec
    column: str
    encoding: Encoding = "array"


@dataclass(frozen=True)
class TransformPlan:
    """Everything that executors need to know; a few kilobytes, whatever the size of the model.

    Args:
        run: id of this run, for the monitor.
        model: where the model is.
        inputs: how columns become tensors.
        outputs: how tensors become columns.
        keep: columns that pass through.
        keys: kept columns that name a row in error messages.
        batching: batch size and prefetch.
        on_error: policy for bad rows.
        device: ``"auto"``, ``"cpu"`` or a framework device.
        sample: what is shown while it runs.
        channel: where events go; None where the driver cannot be reached, or nobody wants to know.
    """

    run: str
    model: BundleRef
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    keep: tuple[str, ...]
    keys: tuple[str, ...]
    batching: Batching
    on_error: OnError
    device: str
    channel: Address | None
    sample: Sampling = field(default_factory=Sampling)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a task reads: the kept ones, then what only the inputs need."""
        wanted = [*self.keep, *(c for i in self.inputs for c in i.decoder.columns)]
        return tuple(dict.fromkeys(wanted))

    @property
    def signature(self) -> Signature:
        """The complete signature of the model."""
        return Signature.from_json(self.model.signature)

    def output_schema(self, kept: list[pa.Field]) -> pa.Schema:
        """Return the Arrow schema of the result, given the fields of the kept columns."""
        fields = [*kept, *(pa.field(o.column, arrow_type(o.spec, o.encoding)) for o in self.outputs)]
        if self.on_error.column is not None:
            fields.append(pa.field(self.on_error.column, pa.string()))
        return pa.schema(fields)
