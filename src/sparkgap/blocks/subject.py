"""What a verb works on: a Spark DataFrame or a table of this process, asked the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.blocks.inputs import Shapes
from sparkgap.blocks.local import KINDS, Local, kind_of
from sparkgap.data.source import Source
from sparkgap.embedded.metadata import shape_in
from sparkgap.embedded.plan import Input
from sparkgap.embedded.planning import SAMPLE_ROWS, Types

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Subject:
    """A table: exactly one of `frame` and `local` is there.

    Args:
        types: column -> Arrow type.
        shapes: column -> cell shape, as far as metadata tell.
        frame: a Spark DataFrame.
        local: a table of this process.
    """

    types: Types
    shapes: Shapes
    frame: DataFrame | None = None
    local: Local | None = None

    @staticmethod
    def of(data: Any) -> Subject:
        """Look at what the user gave.

        Raises:
            ConfigurationError: it is no table.
        """
        if isinstance(data, Source):
            data = data.to_df(_spark.active_session())
        if kind_of(data) is not None:
            local = Local.of(data)
            return Subject(local.types, {}, local=local)
        if not (hasattr(data, "mapInArrow") and hasattr(data, "sparkSession")):
            raise ConfigurationError(
                f"data must be a Spark DataFrame, gap.files(...), or a table of {', '.join(KINDS)}; got a "
                f"{type(data).__module__}.{type(data).__qualname__}."
            )
        return Subject(_spark.arrow_types(data.schema), shapes_of(data), frame=data)

    def with_values(self, name: str) -> Subject:
        """Return the table with one more column, of any values: for programs that take none."""
        types = {**self.types, name: pa.bool_()}
        if self.local is not None:
            ones = pa.chunked_array([pa.repeat(True, self.local.rows)])
            local = Local(self.local.given, self.local.kind, {**self.local.columns, name: ones}, self.local.rows)
            return Subject(types, self.shapes, local=local)
        from pyspark.sql import functions as F

        assert self.frame is not None
        return Subject(types, self.shapes, frame=self.frame.withColumn(name, F.lit(True)))

    def sample(self, inputs: tuple[Input, ...]) -> pa.RecordBatch:
        """Return a few rows of the columns of some inputs."""
        names = tuple(dict.fromkeys(c for i in inputs for c in i.decoder.columns))
        if self.local is not None:
            table = pa.Table.from_batches(
                self.local.batches(names), pa.schema([(f"c{i}", self.types[n]) for i, n in enumerate(names)])
            ).slice(0, SAMPLE_ROWS)
        else:
            assert self.frame is not None
            table = _spark.columns(self.frame, names).limit(SAMPLE_ROWS).toArrow()
        table = table.combine_chunks()
        columns = [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in table.columns]
        return pa.RecordBatch.from_arrays(columns, names=list(names))


def shapes_of(frame: DataFrame) -> dict[str, Any]:
    """Return the cell shapes that the metadata of a DataFrame's columns tell."""
    found = {field.name: shape_in(field.metadata) for field in frame.schema.fields}
    return {name: shape for name, shape in found.items() if shape is not None}
