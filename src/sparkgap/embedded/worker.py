"""The executor side of the embedded pattern: module-level functions that take the plan."""

from __future__ import annotations

import gc
import itertools
import pickle
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, RowError
from sparkgap.data.source import Chunk, Source, Split
from sparkgap.devices.assign import choose, granted_gpus, visible_gpus
from sparkgap.embedded import sampling
from sparkgap.embedded.batches import Batch, auto_size, rebatch
from sparkgap.embedded.decoding import BadRow, Decoded, decode
from sparkgap.embedded.plan import TransformPlan
from sparkgap.embedded.prefetch import Prefetch
from sparkgap.embedded.scoring import Scored, Scorer
from sparkgap.embedded.writing import assemble, join_small
from sparkgap.models import cache, registry
from sparkgap.models.base import Predictor, Runtime
from sparkgap.monitor.reporter import Attempted, focus
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import TakenAway, phase, telling

T = TypeVar("T")
Work = Callable[[TransformPlan, TaskStats, Iterator[Decoded], Attempted | None], Iterator[pa.RecordBatch]]
"""What is done with the decoded batches of a task, in order."""
_TRACEBACK_LINES = 30


def run_rows(plan: TransformPlan, batches: Iterator[pa.RecordBatch], *, work: Work | None = None) -> Iterator[pa.RecordBatch]:
    """Run a plan on the rows that Spark sends, as a model (`score_rows`) or as other work. The body of `mapInArrow`."""
    stats = _start()
    return _run(plan, stats, lambda: _from_spark(batches, plan, stats.partition), work)


def run_files(
    plan: TransformPlan, source: Source, splits: Sequence[bytes], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Run a plan on the files that this task reads by itself; Spark sends only the numbers of its splits.

    Each split is pickled by itself, so that a task opens its own and not those of all tasks.
    """
    stats = _start()
    numbers = [n for batch in batches for n in batch.column(0).to_pylist()]
    return _run(plan, stats, lambda: _from_files(plan, source, [pickle.loads(splits[n]) for n in numbers]))


def run_columns(plan: TransformPlan, columns: Iterator[Any]) -> Iterator[pa.Array]:
    """Run a plan on the argument columns of a column expression. The body of `arrow_udf`."""
    stats = _start()
    names = list(dict.fromkeys(c for i in plan.inputs for c in i.decoder.columns))
    batches = _argument_batches(names, columns)
    first = next(batches, None)
    if first is None:
        return
    types = {f.name: f.type for f in first.schema}
    inputs = tuple(replace(i, spec=i.decoder.resolve(i.spec, types)) for i in plan.inputs)
    resolved = replace(plan, inputs=inputs)
    chunks = _from_spark(itertools.chain([first], batches), resolved, stats.partition)
    for batch in _run(resolved, stats, lambda: chunks):
        yield batch.column(0) if len(plan.outputs) == 1 else batch.to_struct_array()


def _argument_batches(names: list[str], columns: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    for arguments in columns:
        arrays = [arguments] if isinstance(arguments, pa.Array) else list(arguments)
        if len(arrays) != len(names):
            raise ConfigurationError(
                f"The model's function takes {len(names)} columns ({', '.join(names)}); it was called with {len(arrays)}."
            )
        yield pa.RecordBatch.from_arrays(arrays, names=names)


def _start() -> TaskStats:
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is None:
        return TaskStats()
    return TaskStats(context.stageId(), context.partitionId(), context.taskAttemptId())


def _from_spark(batches: Iterator[pa.RecordBatch], plan: TransformPlan, partition: int) -> Iterator[Chunk]:
    first = 0
    for batch in _received(batches):
        named = pa.RecordBatch.from_arrays(batch.columns, names=list(plan.columns))
        yield Chunk(named, f"partition {partition}", first)
        first += batch.num_rows


def _received(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Tell a connection that breaks off, as LIMIT does at times, from a failure of the task."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError, pa.ArrowInvalid) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno is not None:
                raise  # of a function that runs before this one, about its own files
            raise TakenAway(f"The rows from Spark broke off in the middle: {error}") from error
        yield batch


def _from_files(plan: TransformPlan, source: Source, splits: Sequence[Split]) -> Iterator[Chunk]:
    for split in splits:
        yield from source.read(split, columns=plan.columns, rows=_read_rows(plan, split))


def _read_rows(plan: TransformPlan, split: Split) -> int:
    """Rows of a read: whole batches, so that none is put together of two, and not many more bytes than one batch.

    Measured: chunks of 25 MB that go through memory cost 1.4 times the processor time of chunks of 3 to 6 MB.
    """
    stored = split.nbytes // split.rows if split.rows else 0
    rows = auto_size(max(_input_bytes(plan) or 0, stored))
    size = plan.batching.size
    return rows if size is None else size * max(1, rows // size)


def _run(
    plan: TransformPlan, stats: TaskStats, chunks: Callable[[], Iterator[Chunk]], work: Work | None = None
) -> Iterator[pa.RecordBatch]:
    with (
        telling(plan.channel, plan.run, stats, _cpus()) as begun,
        Prefetch(lambda: _decoded(plan, stats, chunks()), plan.batching.prefetch) as feed,
    ):
        yield from _writing(stats, join_small((work or score_rows)(plan, stats, _timed(stats, "starved", feed), begun)))


def _cpus() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    return max(1, int(context.cpus())) if context is not None else 1


def _writing(stats: TaskStats, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        with stats.timed("write"):  # the time until Spark asks for the next batch
            yield batch
        stats.rows_out += batch.num_rows
        stats.bytes_out += batch.nbytes


def _decoded(plan: TransformPlan, stats: TaskStats, chunks: Iterator[Chunk]) -> Iterator[Decoded]:
    """Runs in the prefetch thread."""
    chunks = _timed(stats, "read", chunks)
    first = next(chunks, None)
    if first is None:
        return
    for batch in rebatch(itertools.chain([first], chunks), _batch_size(plan, first)):
        stats.rows_in += batch.num_rows
        stats.bytes_in += batch.data.nbytes
        with stats.timed("decode"):
            decoded = decode(batch, plan.inputs, nan_is_bad=plan.on_error.nan == "error")
        yield decoded


def _batch_size(plan: TransformPlan, first: Chunk) -> int:
    fixed = plan.signature.batch
    if plan.batching.size is not None:
        return plan.batching.size
    known = _input_bytes(plan)
    if known is not None:
        size = auto_size(known)
    else:
        names = list({c for i in plan.inputs for c in i.decoder.columns})
        size = auto_size(first.batch.select(names).nbytes // max(1, first.batch.num_rows))
        # The work on a text or a ragged row is not told by its bytes: keep batches short enough to watch.
        size = min(size, 1024)
    return size if fixed is None else max(fixed, size // fixed * fixed)


def _input_bytes(plan: TransformPlan) -> int | None:
    """Return the bytes of one row of input tensors; None where rows differ, or are text."""
    specs = [i.spec for i in plan.inputs]
    if not all(s.fixed and s.dtype not in ("str", "bytes") for s in specs):
        return None
    return sum(_row_bytes(s.shape or (), s.dtype or "float32") for s in specs)


def _row_bytes(shape: Sequence[int | None], dtype: str) -> int:
    size = 2 if dtype in ("bfloat16", "float16") else 1 if dtype == "bool" else int("".join(filter(str.isdigit, dtype))) // 8
    for length in shape:
        size *= length or 1
    return size


def score_rows(
    plan: TransformPlan,
    stats: TaskStats,
    feed: Iterator[Decoded],
    begun: Attempted | None,
    scorer_type: type[Scorer] = Scorer,
) -> Iterator[pa.RecordBatch]:
    """Score every row: the kept columns and the outputs, in row order."""
    scorer: Scorer | None = None
    for decoded in feed:
        focus(begun)
        check_bad(plan, decoded.batch, decoded.bad)
        if scorer is None:
            with phase(begun, "loading the model"):
                scorer = _scorer(plan, stats, scorer_type)
        scored: list[Scored] = []
        bad = dict(decoded.bad)
        for piece in decoded.pieces:
            with stats.timed("model"):
                done, failed = scorer.score(piece)
            if plan.sample.rows and not stats.batches and not scored:
                sampling.show(plan, scorer.predictor, decoded.batch, piece)
            check_bad(plan, decoded.batch, failed)
            scored += done
            bad |= failed
        stats.batches += len(scored)
        stats.batch_rows = max([stats.batch_rows, *(s.count for s in scored)])
        count_bad(plan, stats, decoded.batch, bad)
        with stats.timed("encode"):
            result = assemble(plan, decoded.batch.data, scored, bad)
        del decoded, scored
        yield result


def open_predictor(plan: TransformPlan, stats: TaskStats) -> Predictor:
    """Return the model of a plan, loaded in this process."""
    with stats.timed("load"):
        models = cache.process_cache()
        before = models.loads
        predictor = _open(plan, stats.partition)
        stats.model_loads += models.loads - before
        if models.loads > before:
            _set_apart()
    return predictor


def _scorer(plan: TransformPlan, stats: TaskStats, scorer_type: type[Scorer]) -> Scorer:
    return scorer_type(
        open_predictor(plan, stats),
        tuple(o.spec for o in plan.outputs),
        fixed=plan.signature.batch,
        stop_at_first=plan.on_error.policy == "raise",
        stats=stats,
    )


def _set_apart() -> None:
    """Keep the objects of a framework and its model out of garbage collections from now on.

    Spark's daemon collects after every task of a reused worker. Measured: 0.1 s with PyTorch loaded, 0.25 s with
    sentence-transformers, and nothing after this. What was set apart before and is garbage by now goes first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _open(plan: TransformPlan, partition: int) -> Predictor:
    device = choose(
        plan.device,
        can_gpu=registry.adapter(plan.model.adapter).gpu,
        granted=granted_gpus(),
        visible=visible_gpus(),
        partition=partition,
    )
    return cache.open_model(plan.model, Runtime(device, _cpus()))


def check_bad(plan: TransformPlan, batch: Batch, bad: dict[int, BadRow]) -> None:
    """Fail at the first bad row where the policy is to raise."""
    if not bad or plan.on_error.policy != "raise":
        return
    row = min(bad)
    name = _name(plan, batch, row)
    raise RowError(
        f"{name[0].upper()}{name[1:]} on host {socket.gethostname()}: {bad[row].reason}. To go on without such rows, "
        f"pass on_error='null' or 'skip'.{_traceback(bad[row].cause)}"
    ) from bad[row].cause


def _traceback(cause: BaseException | None) -> str:
    """Return the model's own traceback as text: Spark shows the last exception of a chain only."""
    if cause is None:
        return ""
    lines = "".join(traceback.format_exception(cause)).splitlines()
    return "\n\nThe model's own traceback:\n" + "\n".join(lines[-_TRACEBACK_LINES:])


def count_bad(plan: TransformPlan, stats: TaskStats, batch: Batch, bad: dict[int, BadRow]) -> None:
    """Count the bad rows of a batch, with their reasons."""
    for row in sorted(bad):
        stats.bad_row(bad[row].kind, f"{_name(plan, batch, row)}: {bad[row].reason}")
    if plan.on_error.policy == "skip":
        stats.skipped += len(bad)
    else:
        stats.nulled += len(bad)


def _name(plan: TransformPlan, batch: Batch, row: int) -> str:
    keys = ", ".join(f"{k}={batch.data.column(k)[row].as_py()!r}" for k in plan.keys)
    return batch.locate(row) + (f" ({keys})" if keys else "")


def _timed(stats: TaskStats, phase: str, items: Iterator[T]) -> Iterator[T]:
    """Add the time that `next` takes to a phase."""
    while True:
        try:
            with stats.timed(phase):
                item = next(items)
        except StopIteration:
            return
        yield item
        del item
