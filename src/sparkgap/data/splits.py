"""How files are divided among tasks. Pure: sizes in, splits out.

Whole row groups (or files) are packed in file order into bins of nearly equal weight. Only where there are fewer
of them than tasks is a row group cut by rows: every piece but the first then decodes rows that it does not keep,
which costs less than an idle core as soon as a model does the work.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

OPEN_COST = 64 << 10
"""What opening a file costs, in bytes read: so that ten thousand tiny files are not one task."""
MIN_CUT_ROWS = 128
"""A row group is not cut into pieces of fewer rows."""
WAVES = 8
"""Splits a task slot, where there are so many units: a slot that is done early takes the next one. Measured with two
slots: up to 1.13 x the throughput of one split each, as cores are never equally fast; a task more costs about 10 ms."""


@dataclass(frozen=True)
class FilePart:
    """Some rows of one file.

    Args:
        root: the file system, as in `storage.filesystem`; "" for this machine's files.
        path: the file's path in that file system.
        size: its size when planned, in bytes.
        mtime_ns: its modification time when planned; None where the file system does not tell.
        groups: numbers of the row groups; None for the whole file.
        start: first row, counted from the start of the one row group in `groups`.
        stop: row after the last one; None for the end.
        values: values of the partition columns.
    """

    root: str
    path: str
    size: int
    mtime_ns: int | None
    groups: tuple[int, ...] | None = None
    start: int = 0
    stop: int | None = None
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Split:
    """The work of one task.

    Args:
        parts: what to read, in order.
        nbytes: bytes as stored.
        rows: rows before filters; None where it is not known.
    """

    parts: tuple[FilePart, ...]
    nbytes: int
    rows: int | None = None


@dataclass(frozen=True)
class Unit:
    """What the planner moves around: one row group, or one whole file.

    Args:
        part: where it is.
        nbytes: bytes as stored.
        rows: rows before filters; None where it is not known, and then the unit is never cut.
    """

    part: FilePart
    nbytes: int
    rows: int | None = None


def plan_splits(units: Sequence[Unit], *, tasks: int, max_bytes: int) -> tuple[Split, ...]:
    """Divide units among tasks: in order, balanced.

    Args:
        units: what to divide.
        tasks: how many tasks can run at a time. There are at least so many splits where the rows allow it, and up to
            `WAVES` times so many where that takes no cutting.
        max_bytes: no split is larger, unless it is a single unit.
    """
    if not units:
        return ()
    if len(units) < tasks:
        units = cut(units, tasks)
    weights = [u.nbytes + OPEN_COST for u in units]
    bins = pack(weights, bins=tasks * WAVES if tasks > 1 else 1, limit=max_bytes + OPEN_COST)
    return tuple(_split(units[a:b]) for a, b in bins)


def cut(units: Sequence[Unit], pieces: int) -> list[Unit]:
    """Cut the heaviest units by rows until there are `pieces`, or until rows would be too few."""
    counts = [1] * len(units)
    heap = [(-float(u.nbytes), i) for i, u in enumerate(units) if u.rows is not None]
    heapq.heapify(heap)
    missing = pieces - len(units)
    while heap and missing > 0:
        _, i = heapq.heappop(heap)
        if (units[i].rows or 0) // (counts[i] + 1) < MIN_CUT_ROWS:
            continue
        counts[i] += 1
        missing -= 1
        heapq.heappush(heap, (-units[i].nbytes / counts[i], i))
    return [piece for u, n in zip(units, counts, strict=True) for piece in _pieces(u, n)]


def pack(weights: Sequence[int], *, bins: int, limit: int) -> list[tuple[int, int]]:
    """Cut a sequence of positive weights into runs `(start, stop)`.

    There are at least `bins` runs where there are that many weights, no run is heavier than `limit` unless it is a
    single weight, and the heaviest run is as light as that number of runs allows.
    """
    total = [0, *accumulate(weights)]
    wanted = min(len(weights), max(bins, math.ceil(total[-1] / limit), 1))
    low, high = max(weights), total[-1]
    while low < high:
        middle = (low + high) // 2
        if len(_greedy(total, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    runs = _greedy(total, min(low, max(limit, max(weights))))
    return _halve(runs, total, min(bins, len(weights)))


def _greedy(total: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    runs, start = [], 0
    while start < len(total) - 1:
        stop = bisect_right(total, total[start] + capacity) - 1
        runs.append((start, stop))
        start = stop
    return runs


def _halve(runs: list[tuple[int, int]], total: Sequence[int], at_least: int) -> list[tuple[int, int]]:
    """Halve the heaviest run of several weights until there are enough runs."""
    heap = [(-(total[b] - total[a]), a, b) for a, b in runs if b - a > 1]
    heapq.heapify(heap)
    done = [run for run in runs if run[1] - run[0] == 1]
    while heap and len(heap) + len(done) < at_least:
        _, a, b = heapq.heappop(heap)
        middle = min(range(a + 1, b), key=lambda m: abs(total[b] + total[a] - 2 * total[m]))
        for x, y in ((a, middle), (middle, b)):
            if y - x == 1:
                done.append((x, y))
            else:
                heapq.heappush(heap, (-(total[y] - total[x]), x, y))
    return sorted(done + [(a, b) for _, a, b in heap])


def _pieces(unit: Unit, count: int) -> Iterable[Unit]:
    if count == 1:
        return [unit]
    rows = unit.rows or 0
    edges = [rows * k // count for k in range(count + 1)]
    return [Unit(replace(unit.part, start=a, stop=b), unit.nbytes * (b - a) // rows, b - a) for a, b in pairwise(edges)]


def _split(units: Sequence[Unit]) -> Split:
    parts: list[FilePart] = []
    for unit in units:
        if parts and _joins(parts[-1], unit.part):
            parts[-1] = replace(parts[-1], groups=(parts[-1].groups or ()) + (unit.part.groups or ()))
        else:
            parts.append(unit.part)
    rows = [u.rows for u in units if u.rows is not None]
    return Split(tuple(parts), sum(u.nbytes for u in units), sum(rows) if len(rows) == len(units) else None)


def _joins(a: FilePart, b: FilePart) -> bool:
    whole = (a.start, a.stop, b.start, b.stop) == (0, None, 0, None)
    return whole and a.groups is not None and b.groups is not None and (a.root, a.path) == (b.root, b.path)
