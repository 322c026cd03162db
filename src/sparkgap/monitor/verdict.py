"""What limits a run, and what would help. A pure function of what its tasks have measured.

A task's main thread is always in one of: loading the model, waiting for input, in the model, making columns, handing
rows to Spark. The shares of these tell where the limit is; a wait for input goes on the account of whatever keeps the
reading thread busy. Before that come faults of the whole: slots without work, and one task that all others wait for.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from sparkgap.monitor.finding import ENOUGH_SECONDS, Verdict
from sparkgap.monitor.rank_verdict import of_ranks
from sparkgap.monitor.state import Attempt, RunState, span
from sparkgap.monitor.stats import PHASES, TaskStats, add_up

MAIN = ("load", "starved", "model", "encode", "write")
SHORT_BATCH = 0.002
SMALL_BATCH = 32
ITEM_KINDS = ("run", "search", "grouped", "train")
"""Runs of independent items in processes of their own, whose processor time the slots do not see."""
UNITS = {"run": "items", "search": "trials", "grouped": "groups", "train": "ranks"}
"""What such runs count."""
SHARD_PHASES = {"read": "waiting for Spark, which sends the rows", "write": "writing shards"}
ITEM_PHASES = PHASES | {"read": "waiting for the next one", "model": "working: in the function"}


def verdict(attempts: Sequence[Attempt], *, tasks: int | None = None, slots: int | None = None, boundary: str = "") -> Verdict:
    """Find what limits a run.

    Args:
        attempts: the one attempt of each task that counts, running ones too.
        tasks: how many tasks there are; None where that is not known.
        slots: how many can run at once; None where that is not known.
        boundary: ``"rows"``, ``"files"``, or "" where there is none.
    """
    told = [a for a in attempts if a.started is not None]
    total = add_up([a.stats for a in told])
    busy = sum(total.seconds.get(p, 0.0) for p in MAIN)
    if not told or busy < ENOUGH_SECONDS:
        return Verdict("", 0.0, "too short to tell what limits it")
    return _of_the_whole(told, tasks, slots) or _of_the_tasks(told, total, busy, boundary)


def of_run(state: RunState) -> Verdict:
    """Return the verdict on the latest action of a run."""
    if state.ranks:
        return of_ranks(state.ranks.all())
    if state.kind == "shards":
        return of_shards(state.totals())
    if state.kind in ITEM_KINDS:
        return of_items(state.counted())
    slots = state.details.get("slots", "")
    return verdict(
        state.counted(), tasks=state.task_count(), slots=int(slots) if slots.isdigit() else None,
        boundary=state.details.get("boundary", ""),
    )  # fmt: skip


def unit_of(kind: str) -> str:
    """Return what runs of a kind count, in the plural: ``"rows"``, ``"items"``, ``"trials"`` …."""
    return UNITS.get(kind, "rows")


def amount_of(state: RunState) -> tuple[int, str]:
    """Return how much a run has done, and of what: of a training the rows, once there are some."""
    if state.kind == "train" and state.ranks.rows:
        return state.ranks.rows, "rows"
    return sum(a.stats.rows_out for a in state.counted()), unit_of(state.kind)


def words_of(kind: str) -> dict[str, str]:
    """Return the phases of a kind's tasks, in words."""
    return SHARD_PHASES if kind == "shards" else ITEM_PHASES if kind in ITEM_KINDS else PHASES


def of_items(attempts: Sequence[Attempt]) -> Verdict:
    """Find whether the slots of independent items had work; what their items do is not ours to judge.

    Args:
        attempts: one for each slot.
    """
    waited, worked = (sum(a.stats.seconds.get(phase, 0.0) for a in attempts) for phase in ("read", "model"))
    if waited + worked < ENOUGH_SECONDS or (idle := waited / (waited + worked)) <= 1 / 3:
        return Verdict("", 0.0, "the slots have work")
    return Verdict(
        "idle slots", idle, f"slots are idle {idle:.0%} of the time: they wait for items",
        "The items come too slowly, or there are fewer than slots: take a smaller parallel=.",
    )  # fmt: skip


def of_shards(total: TaskStats) -> Verdict:
    """Find what limits the writing of shards."""
    seconds = {phase: total.seconds.get(phase, 0.0) for phase in SHARD_PHASES}
    if (busy := sum(seconds.values())) < ENOUGH_SECONDS:
        return Verdict("", 0.0, "too short to tell what limits it")
    worst = max(seconds, key=lambda p: seconds[p])
    words, fix = {
        "read": ("bound by Spark, which sends the rows", "Make what comes before faster, or write fewer columns=."),
        "write": ("bound by writing shards", "Use faster storage, more partitions at once, or smaller types."),
    }[worst]
    return Verdict(worst, seconds[worst] / busy, f"{words}: {seconds[worst] / busy:.0%} of the tasks' time", fix)


def _of_the_whole(told: Sequence[Attempt], tasks: int | None, slots: int | None) -> Verdict | None:
    """Slots that have nothing to do, where that is more than a third of their time."""
    begin, end = span(told)
    count = tasks if tasks is not None else len(told)
    elapsed = end - begin
    if elapsed <= 0:
        return None
    if slots is not None and count < slots:
        idle = 1 - sum(a.seconds for a in told) / (slots * elapsed)
        if idle > 1 / 3:
            return Verdict(
                "idle slots", idle, f"slots are idle {idle:.0%} of the time: {count} tasks for {slots} slots",
                f"Spread the rows over more tasks: df.repartition({2 * slots}); for files, more or smaller row groups.",
            )  # fmt: skip
    return _straggler(told, elapsed, min(slots, count) if slots is not None else _most_at_once(told))


def _straggler(told: Sequence[Attempt], elapsed: float, at_once: int) -> Verdict | None:
    if len(told) < 2 or at_once < 2:
        return None
    last = max(told, key=lambda a: a.ended or a.heard)
    others = [a for a in told if a is not last]
    alone = (last.ended or last.heard) - max(a.ended or a.heard for a in others)
    usual = statistics.median(a.seconds for a in others)
    if any(a.ended is None for a in others) or alone < elapsed / 4 or last.seconds < 2 * usual:
        return None
    rows, usual_rows = last.stats.rows_in, statistics.median(a.stats.rows_in for a in others)
    name = f"task {last.task.partition} took {last.seconds:.1f} s, the others about {usual:.1f} s"
    if rows > 1.5 * usual_rows:
        return Verdict(
            "straggler", alone / elapsed,
            f"one task holds up all others: {name}, as it has {rows:,} rows to their {usual_rows:,.0f}",
            "Make partitions even: df.repartition(n), or smaller row groups in the files.",
        )  # fmt: skip
    where = f" on {last.host}" if last.host else ""
    return Verdict(
        "straggler", alone / elapsed, f"one task holds up all others: {name}, with as many rows",
        f"Its rows are harder or its machine{where} is slower: use more, smaller partitions, or spark.speculation=true.",
    )  # fmt: skip


def _most_at_once(told: Sequence[Attempt]) -> int:
    edges = sorted([(a.started or 0.0, 1) for a in told] + [(a.ended or a.heard, -1) for a in told])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


def _of_the_tasks(told: Sequence[Attempt], total: TaskStats, busy: float, boundary: str) -> Verdict:
    shares = {p: total.seconds.get(p, 0.0) / busy for p in MAIN}
    worst = max(shares, key=lambda p: shares[p])
    share = shares[worst]
    if worst == "model":
        return _in_the_model(told, total, share)
    if worst == "starved":
        worst = "read" if total.seconds.get("read", 0.0) >= total.seconds.get("decode", 0.0) else "decode"
    words, fix = _WORDS[worst]
    if worst == "read" and boundary == "files":
        words, fix = _READ_FILES
    elif worst == "read" and boundary == "rows":
        words, fix = _READ_ROWS
    return Verdict(worst, share, f"{words}: {share:.0%} of the tasks' time ({_rest(shares, total)})", fix)


def _in_the_model(told: Sequence[Attempt], total: TaskStats, share: float) -> Verdict:
    rows = total.rows_out + total.skipped
    per_batch = total.seconds.get("model", 0.0) / max(1, total.batches)
    rows_a_batch = rows / max(1, total.batches)
    cpu, wall = sum(a.cpu_seconds for a in told), sum(a.seconds for a in told)
    cpus = statistics.mean(a.cpus for a in told)
    used = cpu / wall if wall else 0.0
    head = f"compute-bound: {share:.0%} in the model"
    if rows_a_batch <= SMALL_BATCH and per_batch < SHORT_BATCH and total.batches > 10 * len(told):
        return Verdict(
            "small batches", share, f"{head}, in small batches: {rows_a_batch:.0f} rows in {per_batch * 1e3:.2g} ms each",
            f"Use a larger batch_size, e.g. {max(256, 8 * round(rows_a_batch))}: a call has its price for any number of rows.",
        )  # fmt: skip
    threads = max(used, statistics.mean(a.runnable for a in told))
    if threads > 2 * cpus + 0.5:  # one besides those of the model decodes ahead
        return Verdict(
            "threads", share, f"{head}, with too many threads: {threads:.1f} of a task want a core, and it has {cpus:.0f}",
            "Let the framework use as many threads as the task has cores: leave its thread settings alone, or raise "
            "spark.task.cpus.",
        )  # fmt: skip
    if used < 0.4 * cpus and not any(a.gpu.get("devices") for a in told):
        return Verdict(
            "waiting model", share, f"{head}, which waits for something else: a task uses {used:.0%} of a core",
            "Have more tasks at once (more cores in the master, or smaller spark.task.cpus), or larger batches.",
        )  # fmt: skip
    return Verdict(
        "model", share, f"{head} ({rows / max(total.seconds.get('model', 0.0), 1e-9):,.0f} rows/s a task)",
        "More cores or a GPU, a smaller or quantised model, or a larger batch_size would help; nothing else will.",
    )  # fmt: skip


def _rest(shares: Mapping[str, float], total: TaskStats) -> str:
    return f"{shares['model']:.0%} in the model"


_READ_ROWS = (
    "bound by Spark, which sends the rows",
    "Read files by themselves where possible (gap.files, boundary='files'; gap.explain says why not), select fewer columns, "
    "or make what comes before faster: df.cache() if it is used again.",
)
_READ_FILES = (
    "I/O-bound: reading files",
    "Bring the files nearer or on faster storage, use more tasks at once, or larger row groups.",
)
_WORDS = {
    "read": ("I/O-bound: waiting for input", "Make what comes before the model faster."),
    "decode": (
        "bound by decoding: columns to tensors",
        "Use more cores or partitions, decode to a smaller size, or store the decoded tensors once and read those.",
    ),
    "encode": (
        "bound by making columns of the outputs",
        "Keep fewer outputs (outputs={...}), or raw bytes: outputs={tensor: (column, 'binary')}.",
    ),
    "write": (
        "bound by what takes the rows: the model waits for it",
        "Make the sink faster or give it less: fewer columns in keep=, another format, or more partitions.",
    ),
    "load": (
        "bound by loading the model",
        "Use fewer, larger partitions, and let workers live: spark.python.worker.reuse=true.",
    ),
}
