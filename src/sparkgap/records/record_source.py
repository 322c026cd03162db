"""`RecordSource`: files of records as a `Source`, and as a DataFrame that executors read."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.data import storage
from sparkgap.data.parquet_read import explained
from sparkgap.data.source import Chunk, Source
from sparkgap.data.splits import Split, Unit, plan_splits
from sparkgap.records.format import Policy, RecordFile, RecordFormat, salvage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Decode = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_ROWS = 4096


@dataclass(frozen=True)
class RecordSource(Source):
    """Files of one format. Made by `gap.read_records`.

    Args:
        form: the format.
        stored: columns that are read.
        given: columns that reading gives; the same, where there is no `decode`.
        known: all columns that were seen when the schema was inferred; None where the user named them.
        decode: makes the columns that are given of a record of those that are read.
        skip: whether bad records are left out.
        options: of the file system.
        units: the files, on the driver; None in a task.
    """

    name: ClassVar[str] = "files of records"

    form: RecordFormat
    stored: pa.Schema
    given: pa.Schema
    known: frozenset[str] | None = None
    decode: Decode | None = None
    skip: bool = False
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    units: tuple[Unit, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.given

    def splits(self, *, tasks: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
        """Divide the files among tasks; those of MDS by samples, too."""
        if self.units is None:
            raise ConfigurationError("The list of files stayed on the driver: plan there, only read in tasks.")
        return plan_splits(self.units, tasks=tasks, max_bytes=max_bytes)

    def read(self, split: Split, *, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
        """Read files, one after the other."""
        given = pa.schema([self.given.field(c) for c in columns])
        stored = given if self.decode is None else self.stored
        for part in split.parts:
            policy = Policy(self.skip, storage.origin(part.root, part.path))
            with explained(policy.origin):
                for chunk in self.form.read(RecordFile(part, self.options), stored, self.known, policy):
                    for at in range(0, chunk.batch.num_rows, rows):
                        piece = Chunk(chunk.batch.slice(at, rows), chunk.origin, chunk.first_row + at)
                        yield from [piece] if self.decode is None else self._decoded(piece, given, policy)
            policy.done()

    def to_df(self, spark: SparkSession) -> DataFrame:
        """Return the rows as a DataFrame."""
        return frame_of(self, spark)

    def _decoded(self, piece: Chunk, given: pa.Schema, policy: Policy) -> Iterator[Chunk]:
        records = piece.batch.to_pylist()

        def decode(start: int, stop: int) -> pa.RecordBatch:
            made = [_called(self.decode, record) for record in records[start:stop]]
            columns = [pa.array([row.get(f.name) for row in made], f.type) for f in given]
            return pa.RecordBatch.from_arrays(columns, schema=given)

        yield from salvage(decode, len(records), piece.first_row, policy)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "units": None}


def frame_of(source: Source, spark: SparkSession) -> DataFrame:
    """Return a lazy DataFrame whose tasks read the splits of a source."""
    from pyspark.sql import types as T

    splits = [pickle.dumps(s) for s in source.splits(tasks=_spark.slots(spark))]
    schema = T.StructType([T.StructField(f.name, _spark.spark_type(f.type)) for f in source.schema])
    numbers = spark.range(0, len(splits), 1, max(1, len(splits)))
    return numbers.mapInArrow(functools.partial(read_splits, source, splits), schema)


def read_splits(source: Source, splits: Sequence[bytes], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Read the splits whose numbers Spark sends. Runs in a Spark task; each is pickled alone, so a task opens its own only."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            for chunk in source.read(pickle.loads(splits[number]), columns=source.schema.names, rows=_ROWS):
                yield chunk.batch


def _called(decode: Decode | None, record: Mapping[str, Any]) -> Mapping[str, Any]:
    assert decode is not None
    try:
        return decode(record)
    except Exception as error:  # the user's: whatever it is, the record is bad
        raise ValueError(f"decode failed with {type(error).__name__}: {error}") from error
