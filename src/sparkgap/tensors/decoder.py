"""The `Decoder` seam: how columns of a record batch become one tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from sparkgap.tensors.spec import TensorSpec


class BadRows(Exception):
    """Some rows of a batch cannot become a tensor.

    Args:
        reasons: row number in the batch -> why, for every such row.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(dict(reasons))
        self.reasons = dict(reasons)


class RaggedRows(Exception):
    """The rows of a batch have different shapes and the spec allows each of them.

    Args:
        shapes: the shape of each row, in row order.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.shapes = shapes


class Decoder(ABC):
    """Turns columns into one tensor. The seam for new kinds of input.

    A decoder is a frozen, picklable value. `resolve` runs on the driver, once; `decode` runs on executors,
    once a batch, in the prefetch thread of the task, so it must not depend on the thread it runs in.
    """

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `decode` reads."""

    @abstractmethod
    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Say which tensor comes out, given what the model wants and the types of the columns.

        Args:
            spec: what the model says of its input; dtype and shape may be unknown.
            types: column name -> Arrow type, for at least `columns`.

        Raises:
            SignatureError: columns of these types can never feed such a tensor.
        """

    @abstractmethod
    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the tensor of a batch: one entry a row, dtype as in `spec`.

        Raises:
            BadRows: some rows cannot be decoded; says all of them. The caller takes them out, or fails.
            RaggedRows: rows have different shapes within what `spec` allows. The caller splits by shape.
        """
