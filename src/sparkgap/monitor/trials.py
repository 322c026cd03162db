"""The trials of a search: what is known of each, and which of very many are kept. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparkgap.monitor.events import Trial

MAX_BEST = 500
MAX_LATEST = 500
SLACK = 250
"""So many more are held before those that are too many go: choosing them takes a while."""
MAX_PARAMS = 100
MAX_CHOICES = 100
RUNNING, COMPLETE = "running", "complete"


@dataclass
class Known:
    """What is known of one trial; the fields are those of `Trial`."""

    number: int
    state: str = RUNNING
    values: tuple[float, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    report: tuple[float, float | None] | None = None
    started: float = 0.0
    seconds: float = 0.0
    note: str = ""


class Trials:
    """The trials of a run. Of more than `MAX_BEST` + `MAX_LATEST` that have ended, the best and the latest are kept.

    Attributes:
        directions: ``"minimize"`` or ``"maximize"`` for each objective.
        kept: by number.
        counts: trials by state, also of those that are not kept.
        distributions: the range of each parameter, over all trials: ``{"low", "high", "log"}`` or ``{"choices"}``.
    """

    def __init__(self) -> None:
        self.directions: tuple[str, ...] = ("minimize",)
        self.kept: dict[int, Known] = {}
        self.counts: Counter[str] = Counter()
        self.distributions: dict[str, dict[str, Any]] = {}

    def aim(self, directions: str) -> None:
        """Take the directions as a run's details tell them: ``"minimize, maximize"``."""
        self.directions = tuple(directions.split(", ")) if directions else ("minimize",)

    def note(self, event: Trial) -> None:
        """Fold one event in; late news of a trial that has ended changes nothing."""
        known = self.kept.get(event.number)
        if known is None:
            known = self.kept[event.number] = Known(event.number)
            self.counts[RUNNING] += 1
        elif known.state != RUNNING:
            return
        if event.state != known.state:
            self.counts.subtract([known.state])
            self.counts[event.state] += 1
        known.state, known.values = event.state, event.values
        known.params = dict([*known.params.items(), *event.params.items()][:MAX_PARAMS])
        known.report = event.report or known.report
        known.started = event.started or known.started
        known.seconds, known.note = event.seconds, event.note
        if known.state != RUNNING and not known.seconds and known.started:
            known.seconds = max(0.0, event.time - known.started)
        for name, kind in event.distributions.items():
            if name in self.distributions or len(self.distributions) < MAX_PARAMS:
                self.distributions[name] = _wider(self.distributions.get(name), kind)
        if len(self.kept) > MAX_BEST + MAX_LATEST + SLACK:
            self._forget()

    @property
    def total(self) -> int:
        """How many trials there were, those included that are not kept."""
        return sum(self.counts.values())

    def ranked(self) -> list[tuple[Known, int | None]]:
        """Return the kept trials, best first, with their ranks: 0 for the best one.

        Of several objectives, the rank is the number of trials that are better: no worse in all of them and better in one;
        rank 0 is the Pareto front. Trials that are not complete have no rank and come last: latest first.
        """
        complete = [t for t in self.kept.values() if t.state == COMPLETE and len(t.values) == len(self.directions)]
        ranks = dominated([t.values for t in complete], self.directions)
        first = -1.0 if self.directions[0] == "maximize" else 1.0
        best = sorted(zip(complete, ranks, strict=True), key=lambda r: (r[1], first * r[0].values[0], r[0].number))
        done = {t.number for t in complete}
        rest = sorted((t for t in self.kept.values() if t.number not in done), key=lambda t: -t.number)
        return [*best, *((t, None) for t in rest)]

    def _forget(self) -> None:
        best = [t.number for t, rank in self.ranked() if rank is not None][:MAX_BEST]
        over = sorted((t.number for t in self.kept.values() if t.state != RUNNING), reverse=True)
        stay = {*best, *over[:MAX_LATEST], *(t.number for t in self.kept.values() if t.state == RUNNING)}
        self.kept = {number: trial for number, trial in self.kept.items() if number in stay}


def dominated(values: Sequence[Sequence[float]], directions: Sequence[str]) -> list[int]:
    """Return for each trial how many others are better than it: no worse in every objective, and better in one.

    Args:
        values: a row for each trial, a number for each direction.
        directions: ``"minimize"`` or ``"maximize"``.
    """
    if not values:
        return []
    signed = np.asarray(values, float) * [-1.0 if d == "maximize" else 1.0 for d in directions]
    if len(directions) == 1:
        return [int(n) for n in np.searchsorted(np.sort(signed[:, 0]), signed[:, 0])]
    return [int(((signed <= one).all(1) & (signed < one).any(1)).sum()) for one in signed]


def _wider(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a range that holds both; trials may suggest a parameter with different ones."""
    if old is None:
        return dict(new)
    if "choices" in new or "choices" in old:
        ours = list(old.get("choices", ()))
        more = [c for c in new.get("choices", ()) if not any(_same(c, o) for o in ours)]
        return {"choices": (ours + more)[:MAX_CHOICES]}
    return {
        "low": min(old.get("low", math.inf), new.get("low", math.inf)),
        "high": max(old.get("high", -math.inf), new.get("high", -math.inf)), "log": bool(old.get("log") and new.get("log")),
    }  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other  # True and 1 are two choices
