"""Curves over time, thinned to what a chart can show. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparkgap.monitor.events import Task
from sparkgap.monitor.state import Attempt, Series

MAX_POINTS = 300
MAX_ALL_POINTS = 6_000
"""Of all series of a run together: what a browser takes four times a second."""
MAX_NAMES = 40
BINS = 120


def thinned(points: Sequence[Any], most: int = MAX_POINTS) -> list[Any]:
    """Return at most `most` of the points, evenly chosen; the first and the last stay."""
    if len(points) <= most:
        return list(points)
    if most < 2:
        return [points[-1]]
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def metric_curves(series: Iterable[Series], ranks: Mapping[Task | None, int] | None = None) -> list[dict[str, Any]]:
    """Return the series of each name together, for one chart a name.

    Args:
        series: of a run.
        ranks: which rank an attempt is, where there are ranks.

    Returns:
        ``{"name", "lines": [{"partition", "attempt", "rank", "count", "points": [[time, step, value]]}]}`` each.
    """
    told = [s for s in series if s.points]
    most = max(10, min(MAX_POINTS, MAX_ALL_POINTS // max(1, len(told))))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in told:
        if one.name not in by_name and len(by_name) >= MAX_NAMES:
            continue
        task = one.task
        by_name.setdefault(one.name, []).append({
            "partition": task.partition if task else None, "attempt": task.attempt if task else None, "count": one.count,
            "rank": (ranks or {}).get(task), "points": [list(p) for p in thinned(list(one.points), most)],
        })  # fmt: skip
    first = sorted(by_name, key=lambda name: name != "loss")  # what people look for
    return [{"name": name[:200], "lines": by_name[name]} for name in first]


def throughput(counted: Sequence[Attempt], bins: int = BINS) -> list[list[float]]:
    """Return rows a second over time, with each task's rows spread evenly over its time.

    Returns:
        ``[seconds since 1970, rows a second]`` at the middle of each of `bins` spans.
    """
    spans = [(a.started, a.ended or a.heard, a.stats.rows_out) for a in counted if a.started is not None and a.seconds > 0]
    if not spans:
        return []
    begin, end = min(s[0] for s in spans), max(s[1] for s in spans)
    width = (end - begin) / bins
    rows = [0.0] * bins
    for first, last, count in spans:
        low, high = int((first - begin) / width), min(bins - 1, int((last - begin) / width))
        for i in range(low, high + 1):
            covered = min(last, begin + (i + 1) * width) - max(first, begin + i * width)
            rows[i] += count * max(0.0, covered) / (last - first)
    return [[begin + (i + 0.5) * width, n / width] for i, n in enumerate(rows)]
