"""From a DataFrame and settings to trained networks: rows are written once, networks of one worker are tasks. Driver side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkgap._errors import DataError, SignatureError
from sparkgap.cooperative.api import train
from sparkgap.cooperative.feeding import Source, source_of
from sparkgap.cooperative.fit_api import fitted, spec_of
from sparkgap.cooperative.fit_plan import FitPlan, Fitted
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.trainables import environment_of
from sparkgap.ml import net_work
from sparkgap.ml.mlp_rows import check_labels
from sparkgap.ml.net_probe import Probe, check_outputs, made, probe
from sparkgap.ml.net_rows import Table, rows_of
from sparkgap.scheduled.api import run
from sparkgap.shards.dataset import Shards, open_shards
from sparkgap.tensors.spec import TensorSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RESULT_LIMIT = "4g"
_NAME = "fit network"


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        table: the columns.
        network: it, or a function that makes it.
        framework: ``"torch"`` or ``"keras"``.
        options: loss, optimizer and learning rate.
        epochs: passes over the rows.
        batch_size: rows of a batch.
        patience: epochs without a better one before it ends; None: never.
        seed: of all that is drawn.
        workers: how many train it together.
        gpus: of a worker.
    """

    table: Table
    network: Any
    framework: str
    options: Mapping[str, Any]
    epochs: int
    batch_size: int
    patience: int | None
    seed: int
    workers: int = 1
    gpus: float | None = None


@dataclass(frozen=True)
class Learned:
    """What came of a training.

    Args:
        model: the network with the weights of its best epoch, with its history.
        probe: what it takes and gives.
    """

    model: Fitted
    probe: Probe


@dataclass(frozen=True)
class _Rows:
    """Rows where tasks find them: shards that all see, or folders that are placed on each node."""

    sources: Mapping[str, Source]

    @property
    def seen(self) -> dict[str, Any]:
        return {name: source.shards for name, source in self.sources.items() if source.shards is not None}

    @property
    def placed(self) -> dict[str, Any]:
        return {name: source.folder for name, source in self.sources.items() if source.folder is not None}

    def opened(self) -> dict[str, Shards]:
        return {
            name: open_shards(str(source.folder)) if source.shards is None else source.shards
            for name, source in self.sources.items()
        }


def train_all(dataset: DataFrame, jobs: Sequence[Job]) -> Iterator[tuple[int, Learned]]:
    """Train networks, and give each with its number, as they come. The rows are written once for all of the same columns.

    Raises:
        SignatureError: a column is missing, of another type, or does not fit the network.
        ConfigurationError: the network does not fit the labels, or an option does not fit it.
        DataError: there are no rows, or labels are no such.
        TaskError, RankError: a training failed.
    """
    for table in dict.fromkeys(job.table for job in jobs):
        numbers = [number for number, job in enumerate(jobs) if job.table == table]
        with ExitStack() as stack:
            rows = _Rows(_sources(stack, dataset, table))
            for found, result in _with_rows(dataset.sparkSession, rows, [jobs[number] for number in numbers]):
                yield numbers[found], result


def _sources(stack: ExitStack, dataset: DataFrame, table: Table) -> dict[str, Source]:
    trained_on, held = rows_of(dataset, table)
    given = {"rows": trained_on} if held is None else {"rows": trained_on, "held": held}
    return {
        name: stack.enter_context(source_of(frame, dataset.sparkSession, "auto", streams=False, what=_NAME))
        for name, frame in given.items()
    }


def _with_rows(spark: SparkSession, rows: _Rows, jobs: Sequence[Job]) -> Iterator[tuple[int, Learned]]:
    opened = rows.opened()
    _check_rows(opened, jobs[0].table)
    known: dict[int, tuple[Any, Probe]] = {}
    plans = [_planned(job, opened, known) for job in jobs]
    alone = [number for number, job in enumerate(jobs) if job.workers == 1]
    for gpus in dict.fromkeys(jobs[number].gpus for number in alone):
        alike = [number for number in alone if jobs[number].gpus == gpus]
        keras = jobs[alike[0]].framework == "keras"  # of which a process has one backend
        options = {"fresh": keras, "preload": () if keras else ("torch",), "gpus": gpus, "spark": spark}
        for found, result in _as_tasks(rows, [plans[number][0] for number in alike], options):
            yield alike[found], _learned(result, plans[alike[found]][1])
    for number, job in enumerate(jobs):
        if job.workers > 1:
            plan, taken = plans[number]
            yield number, _learned(_as_gang(spark, rows, plan, job), taken)


def _planned(job: Job, opened: Mapping[str, Shards], known: dict[int, tuple[Any, Probe]]) -> tuple[FitPlan, Probe]:
    """Return how a network is trained, and what it takes and gives; what does not fit is said here."""
    table = job.table
    if id(job.network) not in known:
        network = made(job.network, job.framework)
        known[id(job.network)] = network, probe(network, opened["rows"].slice(0, 1), table.names)
    network, found = known[id(job.network)]
    check_outputs(found, classes=table.classes, binary=job.options["loss"] not in (None, "cross_entropy"))
    for shards in opened.values():
        check_labels(shards, max(found.width, 2) if table.classes else None)
    spec = spec_of(job.network, inputs=table.names, label=table.target, **job.options)
    # A function is made into a network where it is trained; what that needs is known from the one that was made here.
    spec = replace(spec, environment=environment_of(network), options={**spec.options, **job.options})
    plan = FitPlan(
        spec, AllReduce(), job.batch_size, job.epochs, [*table.names, table.target], None, job.patience, job.seed, "full",
        "short",
    )  # fmt: skip
    return plan, found


def _check_rows(opened: Mapping[str, Shards], table: Table) -> None:
    if not opened["rows"].rows:
        raise DataError("There are no rows to train on.")
    if "held" in opened and not opened["held"].rows:
        raise DataError("No row is held out. Raise validationFraction, or look at the column validationIndicatorCol.")
    for spec in opened["rows"].columns:
        if spec.name in table.names and (spec.shape is None or None in spec.shape):
            column = table.inputs[table.names.index(spec.name)]
            raise SignatureError(f"The rows of column `{column}` differ in length; features have one length.")


def _as_tasks(rows: _Rows, plans: list[FitPlan], options: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    started = run(
        partial(net_work.as_task, **rows.seen), plans, data=rows.placed or None, result_limit=RESULT_LIMIT, name=_NAME,
        **options,
    )  # fmt: skip
    with started:
        for outcome in started.as_completed():
            yield outcome.index, outcome.unwrap()


def _as_gang(spark: SparkSession, rows: _Rows, plan: FitPlan, job: Job) -> Mapping[str, Any]:
    found: Mapping[str, Any] = train(
        partial(net_work.as_rank, plan, **rows.seen), workers=job.workers, gpus=job.gpus, placed=rows.placed, name=_NAME,
        spark=spark,
    ).value  # fmt: skip
    return found


def _learned(found: Mapping[str, Any], known: Probe) -> Learned:
    """Return the trained network, which may have other names for its tensors than the one that was looked at."""
    model = fitted(found)
    own, looked = model.signature, known.signature
    outputs = _renamed(looked.outputs, own.outputs)
    position = [spec.name for spec in looked.outputs].index(known.output)
    signature = replace(looked, inputs=_renamed(looked.inputs, own.inputs), outputs=outputs)
    return Learned(model.with_signature(signature), replace(known, signature=signature, output=outputs[position].name))  # type: ignore[arg-type]


def _renamed(specs: tuple[TensorSpec, ...], names: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    if len(names) != len(specs):
        return specs
    return tuple(replace(spec, name=own.name) for spec, own in zip(specs, names, strict=True))
