"""What the page shows of a run, as plain JSON values of bounded size. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sparkgap.monitor.events import Artifact, Failure, Log
from sparkgap.monitor.finding import Verdict
from sparkgap.monitor.state import Attempt, RunState, span
from sparkgap.monitor.stats import LATENCY_BOUNDS, SUMS, TaskStats, add_up
from sparkgap.monitor.verdict import ITEM_KINDS, MAIN, SHARD_PHASES, amount_of, of_run, words_of
from sparkgap.monitor.web.curves import metric_curves, throughput
from sparkgap.monitor.web.plain import cut
from sparkgap.monitor.web.ranks import main_seconds, rank_of, ranks_view, titles_of
from sparkgap.monitor.web.search import search_view

MAX_TASKS = 500
MAX_LOGS = 200
MAX_FAILURES = 50
MAX_ARTIFACTS = 60
MAX_STAGES = 20
MAX_NAME = 200


def run_line(state: RunState) -> dict[str, Any]:
    """Return a run as one line of the list.

    Returns:
        Times are seconds since 1970, ``elapsed`` seconds, ``rate`` rows a second or None, ``tasks`` None where unknown;
        ``unit`` tells what is counted as rows: ``"rows"``, ``"items"``, ``"trials"`` ….
    """
    return _line(state, state.counted(), of_run(state))


def _line(state: RunState, counted: Sequence[Attempt], found: Verdict) -> dict[str, Any]:
    (rows, unit), elapsed = amount_of(state), _elapsed(counted)
    rate = state.ranks.rate if state.kind == "train" and unit == "rows" else rows / elapsed if elapsed > 0 else None
    return {
        "run": state.run,
        "kind": state.kind,
        "unit": unit,
        "name": cut(state.name or state.run, MAX_NAME),
        "status": _status(state),
        "started": state.started,
        "elapsed": elapsed,
        "done": sum(a.status == "ok" for a in counted),
        "running": sum(a.status == "running" for a in counted),
        "tasks": state.task_count(),
        "rows_out": rows,
        "rate": rate,
        "verdict": cut(found.text) if found.limit else "",
        "failures": state.failure_count,
    }


def run_view(state: RunState) -> dict[str, Any]:
    """Return everything that the page shows of one run."""
    counted, found = state.counted(), of_run(state)
    total = add_up([a.stats for a in counted])
    return _line(state, counted, found) | {
        "version": state.version,
        "heard": state.heard,
        "totals": _totals(total),
        "found": {"limit": found.limit, "share": found.share, "text": cut(found.text), "fix": cut(found.fix)},
        "phases": _phases(state, total),
        "ranks": ranks_view(state),
        "search": search_view(state.trials) if state.trials.total else None,
        "items": state.kind in ITEM_KINDS,
        "unmeasured": _unmeasured(counted, _seconds(state, total)),
        "stages": _stages(state),
        "attempts": _attempts(state),
        "throughput": [] if state.ranks else throughput(counted),  # ranks have curves of their own
        "metrics": metric_curves(state.series.values(), rank_of(state)),
        "failed": _failures(state),
        "reasons": [{"reason": cut(r), "count": n} for r, n in Counter(total.reasons).most_common(20)],
        "examples": [cut(e) for e in total.examples],
        "latency": {"bounds": list(LATENCY_BOUNDS), "counts": total.latency},
        "dropped": dict(state.dropped()),
        "forgotten": dict(state.forgotten),
        "logs": _logs(state),
        "log_count": state.log_count,
        "artifacts": _artifacts(state),
        "artifact_count": state.artifact_count,
        "details": {cut(str(k), MAX_NAME): cut(str(v)) for k, v in islice(state.details.items(), 40)},
    }


def artifact(state: RunState, number: int) -> Artifact | None:
    """Return a shown thing by the number that `run_view` gave it; None where it is not kept any more."""
    index = number - (state.artifact_count - len(state.artifacts))
    return state.artifacts[index] if 0 <= index < len(state.artifacts) else None


def _status(state: RunState) -> str:
    return "local" if state.kind == "local" and not state.attempts else state.status()


def _elapsed(counted: Sequence[Attempt]) -> float:
    begin, end = span([a for a in counted if a.started is not None])
    return max(0.0, end - begin)


def _totals(total: TaskStats) -> dict[str, Any]:
    return {name: getattr(total, name) for name in (*SUMS, "batch_rows")}


def _phases(state: RunState, total: TaskStats) -> list[dict[str, Any]]:
    """Return the shares of the tasks' time, as the verdict counts them, in the order in which a row passes."""
    seconds = _seconds(state, total)
    busy = sum(seconds.values())
    if busy <= 0:
        return []
    slow = max(seconds, key=lambda p: seconds[p])
    words, titles = (
        words_of(state.kind) | titles_of(state),
        titles_of(state) or (SHARD_PHASES if state.kind == "shards" else {}),
    )
    return [
        {
            "phase": phase, "title": titles.get(phase), "words": words[phase], "seconds": spent, "share": spent / busy,
            "slow": phase == slow,
            "parts": {p: total.seconds.get(p, 0.0) for p in ("read", "decode")} if phase == "starved" else {},
        }
        for phase, spent in seconds.items()
    ]  # fmt: skip


def _main(kind: str) -> tuple[str, ...]:
    """Return the phases of which a task's main thread is always in one."""
    return tuple(SHARD_PHASES) if kind == "shards" else ("read", "model") if kind in ITEM_KINDS else MAIN


def _seconds(state: RunState, total: TaskStats) -> dict[str, float]:
    """Return seconds by phase: of the ranks, where there are some, as they know more than the tasks over them."""
    return main_seconds(state) if state.ranks else {p: total.seconds.get(p, 0.0) for p in _main(state.kind)}


def _unmeasured(counted: Sequence[Attempt], seconds: Mapping[str, float]) -> float:
    """Return the part of the tasks' time that is in no phase: starting up, and what nobody measures."""
    elapsed = sum(a.seconds for a in counted)
    return max(0.0, 1 - sum(seconds.values()) / elapsed) if elapsed > 0 else 0.0


def _stages(state: RunState) -> list[dict[str, Any]]:
    numbers = sorted({a.stage for a in state.attempts} | set(state.stages))[-MAX_STAGES:]
    return [
        {
            "stage": n, "status": state.status(n), "tasks": state.task_count(n),
            "done": sum(a.status == "ok" for a in state.counted(n)), "rows_out": state.totals(n).rows_out,
        }
        for n in numbers
    ]  # fmt: skip


def _attempts(state: RunState) -> dict[str, Any]:
    """Return the attempts of the latest stage: those that need a look first, the rest as sums."""
    stage = state.latest_stage
    mine = sorted((a for a in state.attempts.values() if a.task.stage == stage), key=lambda a: a.task.attempt)
    tries: Counter[int] = Counter()
    order: dict[int, int] = {}
    for attempt in mine:
        tries[attempt.task.partition] += 1
        order[attempt.task.attempt] = tries[attempt.task.partition]
    counts = {a.task for a in state.counted()}
    urgent = {"failed": 0, "lost": 0, "running": 1, "ok": 2}
    chosen = sorted(mine, key=lambda a: (urgent[a.status], -a.seconds))
    shown, rest = chosen[:MAX_TASKS], chosen[MAX_TASKS:]
    return {
        "shown": [_attempt(a, order[a.task.attempt], a.task in counts) for a in sorted(shown, key=lambda a: a.task)],
        "rest": {
            "count": len(rest), "rows_out": sum(a.stats.rows_out for a in rest if a.task in counts),
            "seconds": sum(a.seconds for a in rest), "status": dict(Counter(a.status for a in rest)),
        },
        "status": dict(Counter(a.status for a in mine)),
        "retried": sum(n > 1 for n in tries.values()),
    }  # fmt: skip


def _attempt(a: Attempt, number: int, counts: bool) -> dict[str, Any]:
    main = {p: a.stats.seconds.get(p, 0.0) for p in MAIN}
    return {
        "stage": a.task.stage, "partition": a.task.partition, "attempt": a.task.attempt, "try": number, "counts": counts,
        "status": a.status, "host": cut(a.host, MAX_NAME), "pid": a.pid, "cpus": a.cpus, "phase": cut(a.phase, MAX_NAME),
        "started": a.started, "ended": a.ended, "heard": a.heard, "seconds": a.seconds, "cpu_seconds": a.cpu_seconds,
        "rows_in": a.stats.rows_in, "rows_out": a.stats.rows_out, "bad": a.stats.skipped + a.stats.nulled,
        "rss": a.rss, "gpu": _gpu(a), "most": max(main, key=lambda p: main[p]) if any(main.values()) else "",
    }  # fmt: skip


def _gpu(a: Attempt) -> str:
    devices = a.gpu.get("devices")
    if not isinstance(devices, list):
        return cut(str(a.gpu.get("reason", "")), MAX_NAME)
    told = [d for d in devices[:8] if isinstance(d, dict)]
    return ", ".join(f"GPU {d.get('index')}: {d.get('busy', '?')} % busy" for d in told)


def _failures(state: RunState) -> list[dict[str, Any]]:
    healed = {(a.task.stage, a.task.partition) for a in state.attempts.values() if a.status == "ok"}
    return [_failure(f, state, healed) for f in state.failures[:MAX_FAILURES]]


def _failure(f: Failure, state: RunState, healed: set[tuple[int, int]]) -> dict[str, Any]:
    attempt = state.attempts.get(f.task) if f.task is not None else None
    return _who(f) | {
        "error": cut(f.error, MAX_NAME), "message": cut(f.message), "traceback": f.traceback[-20_000:], "time": f.time,
        "host": attempt.host if attempt else "", "pid": attempt.pid if attempt else 0,
        "healed": f.task is not None and (f.task.stage, f.task.partition) in healed,
    }  # fmt: skip


def _logs(state: RunState) -> list[dict[str, Any]]:
    """Return the latest lines, by their time: those of several processes come in any order."""
    latest = islice(state.logs, max(0, len(state.logs) - MAX_LOGS), None)
    return [_log(log) for log in sorted(latest, key=lambda log: log.time)]


def _log(log: Log) -> dict[str, Any]:
    return _who(log) | {"time": log.time, "level": log.level, "logger": cut(log.logger, MAX_NAME), "text": cut(log.text)}


def _who(event: Failure | Log | Artifact) -> dict[str, Any]:
    task = event.task
    return {"partition": task.partition if task else None, "attempt": task.attempt if task else None}


def _artifacts(state: RunState) -> list[dict[str, Any]]:
    """Return the newest state of each name first, then earlier ones."""
    first = state.artifact_count - len(state.artifacts)
    newest = list(enumerate(state.artifacts, first))[::-1]
    seen: set[str] = set()
    latest: list[tuple[int, Artifact]] = []
    older: list[tuple[int, Artifact]] = []
    for number, shown in newest:
        (older if shown.name in seen else latest).append((number, shown))
        seen.add(shown.name)
    return [_artifact(n, a) for n, a in (latest + older)[:MAX_ARTIFACTS]]


def _artifact(number: int, a: Artifact) -> dict[str, Any]:
    return _who(a) | {
        "number": number, "name": cut(a.name, MAX_NAME), "kind": a.kind, "step": a.step, "caption": cut(a.caption, MAX_NAME),
        "time": a.time, "bytes": len(a.data),
    }  # fmt: skip
