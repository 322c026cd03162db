"""From a DataFrame and settings to trained nets: rows are written once, settings are tasks. Driver side."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparkgap._errors import ConfigurationError, DataError, RankError, SignatureError, TaskError
from sparkgap.cooperative.api import train
from sparkgap.cooperative.feeding import Source, source_of
from sparkgap.ml import mlp_work
from sparkgap.ml.columns import is_vector
from sparkgap.ml.mlp_rows import FEATURES, HELD, LABEL, check_labels
from sparkgap.ml.mlp_setting import Setting, Trained
from sparkgap.scheduled.api import run
from sparkgap.scheduled.resources import placement
from sparkgap.shards.dataset import Shards, open_shards

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

T = TypeVar("T")
_WHERE = re.compile(r"^(Item \d+: |Rank \d+ of \d+ raised \S*DataError: )")
SMALL_BYTES = 32 << 20
"""Features of so many bytes, as float64, are left to one task, which needs no peers."""
RESULT_LIMIT = "4g"


@dataclass(frozen=True)
class Table:
    """Which columns of the DataFrame are trained on.

    Args:
        features: vectors or arrays of numbers.
        label: numbers.
        indicator: column that is true in rows that are held out; None for none.
        share_seed: seed of the share of rows that is held out; None for no share.
    """

    features: str
    label: str
    indicator: str | None = None
    share_seed: int | None = None


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        table: the columns.
        setting: the rest.
        workers: tasks that train together; None: it depends on the rows.
    """

    table: Table
    setting: Setting
    workers: int | None = None


def train_all(dataset: DataFrame, jobs: Sequence[Job]) -> Iterator[tuple[int, Trained]]:
    """Train nets, and give each with its number, as they come. The rows are written once for all of the same columns.

    Raises:
        SignatureError: a column is missing, of another type, or does not fit the layers.
        DataError: there are no rows, or labels or features are no such.
        TaskError, RankError: a training failed.
    """
    tables = list(dict.fromkeys(job.table for job in jobs))
    for table in tables:
        numbers = [number for number, job in enumerate(jobs) if job.table == table]
        rows = prepared(dataset, table)
        with source_of(rows, dataset.sparkSession, "auto", streams=False, what="perceptron") as source:
            mine = [jobs[number] for number in numbers]
            for found, result in _with_rows(dataset, source, mine):
                yield numbers[found], result


def prepared(dataset: DataFrame, table: Table) -> DataFrame:
    """Return the columns that are trained on, under their own names here.

    Raises:
        SignatureError: one is missing, or of another type.
    """
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    schema = dataset.schema
    features = _type(schema, table.features)
    element = features.elementType if isinstance(features, T.ArrayType) else None
    if not is_vector(features) and (not isinstance(element, T.NumericType) or isinstance(element, T.DecimalType)):
        raise SignatureError(
            f"Column `{table.features}` is {features.simpleString()}; features are a vector, or an array of integers or "
            "floats. Make one with VectorAssembler, or with array(...)."
        )
    if not isinstance(label := _type(schema, table.label), T.NumericType):
        raise SignatureError(f"Column `{table.label}` is {label.simpleString()}; a label is a number. Use StringIndexer.")
    columns = [_column(table.features).alias(FEATURES), _column(table.label).cast("double").alias(LABEL)]
    if table.indicator is not None:
        if not isinstance(kind := _type(schema, table.indicator), T.BooleanType):
            raise SignatureError(f"Column `{table.indicator}` is {kind.simpleString()}; it must be boolean: true is held out.")
        columns.append(F.when(_column(table.indicator), 0.0).otherwise(2.0).alias(HELD))
    elif table.share_seed is not None:
        columns.append(F.rand(table.share_seed).alias(HELD))
    return dataset.select(*columns)


def _with_rows(dataset: DataFrame, source: Source, jobs: Sequence[Job]) -> Iterator[tuple[int, Trained]]:
    shards = source.shards if source.shards is not None else open_shards(str(source.folder))
    for job in jobs:
        _check(shards, job)
    slots = placement(dataset.sparkSession, cpus=None, gpus=None, parallel=None).parallel
    workers = [job.workers or _workers(shards, slots, len(jobs)) for job in jobs]
    single = [number for number, count in enumerate(workers) if count == 1]
    with _own_errors():
        if single:
            items = [jobs[number].setting for number in single]
            for found, result in _as_tasks(dataset, source, items):
                yield single[found], result
        for number, count in enumerate(workers):
            if count > 1:
                yield number, _as_gang(dataset, source, jobs[number].setting, count)


def _as_tasks(dataset: DataFrame, source: Source, settings: list[Setting]) -> Iterator[tuple[int, Trained]]:
    options: dict[str, Any] = {
        "preload": ("torch", "sparkgap.ml.mlp_engine"), "result_limit": RESULT_LIMIT, "name": "fit perceptron",
        "spark": dataset.sparkSession,
    }  # fmt: skip
    if source.shards is not None:
        started = run(partial(mlp_work.alone_over, source.shards), settings, **options)
    else:
        started = run(mlp_work.alone, settings, data={"rows": source.folder}, **options)
    with started:
        for outcome in started.as_completed():
            yield outcome.index, outcome.unwrap()


def _as_gang(dataset: DataFrame, source: Source, setting: Setting, workers: int) -> Trained:
    placed = {} if source.folder is None else {"rows": source.folder}
    found = train(
        partial(mlp_work.as_rank, setting), source.shards, workers=workers, placed=placed, name="fit perceptron",
        spark=dataset.sparkSession,
    ).value  # fmt: skip
    assert isinstance(found, Trained)
    return found


class _own_errors:
    """Gives what a task says of the data as the error that it was there."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, TaskError | RankError) and error.error.rpartition(".")[2] == "DataError":
            raise DataError(_WHERE.sub("", error.message)) from error


def _workers(shards: Shards, slots: int, jobs: int) -> int:
    """Return how many tasks train one net: where there are many nets, each gets one."""
    values = shards.rows * int((_spec(shards).shape or (1,))[0] or 1)
    return 1 if values * 8 <= SMALL_BYTES or jobs >= slots else slots


def _check(shards: Shards, job: Job) -> None:
    """Refuse rows that do not fit the layers."""
    setting = job.setting
    check_labels(shards, setting.layers[-1] if setting.task == "classification" else None)
    shape = _spec(shards).shape
    if shape is None or len(shape) != 1 or shape[0] is None:
        raise SignatureError(f"The rows of column `{job.table.features}` differ in length; features have one length.")
    if shape[0] != setting.layers[0]:
        raise SignatureError(
            f"Column `{job.table.features}` has {shape[0]} features, and the first of layers={list(setting.layers)} is "
            f"{setting.layers[0]}. Make them the same."
        )


def _spec(shards: Shards) -> Any:
    return next(spec for spec in shards.columns if spec.name == FEATURES)


def _type(schema: Any, name: str) -> Any:
    if name not in schema.fieldNames():
        raise SignatureError(f"There is no column `{name}`; the columns are {', '.join(schema.fieldNames())}.")
    return schema[name].dataType


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


class FitIterator(Generic[T]):
    """What `fitMultiple` returns: (number, model) as they come. Several threads may take from it.

    Args:
        made: gives them.
    """

    def __init__(self, made: Iterator[tuple[int, T]]) -> None:
        self._made = made
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def __iter__(self) -> FitIterator[T]:
        return self

    def __next__(self) -> tuple[int, T]:
        with self._lock:
            if self._error is not None:  # so that no thread takes a failure for the end
                raise self._error
            try:
                return next(self._made)
            except StopIteration:
                raise
            except Exception as error:
                self._error = error
                raise


def check_setting(setting: Setting, weights: int) -> None:
    """Refuse params that do not fit each other.

    Raises:
        ConfigurationError: they do not.
    """
    from sparkgap.ml.mlp_setting import FULL

    if setting.dropout and setting.solver in FULL:
        raise ConfigurationError(
            f"dropout={setting.dropout} with solver={setting.solver!r}: it needs one of adam, adamw and sgd, as a loss that "
            "changes from step to step misleads a solver that compares losses."
        )
    if setting.first is not None and len(setting.first) != weights:
        raise ConfigurationError(
            f"initialWeights has {len(setting.first)} values, and layers={list(setting.layers)} have {weights} weights."
        )
    if setting.task == "regression" and setting.layers[-1] != 1:
        raise ConfigurationError(f"layers={list(setting.layers)}: a regressor has one output, so the last must be 1.")
