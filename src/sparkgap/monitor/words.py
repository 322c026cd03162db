"""A gang in one line: where it is, its loss, and what each rank does. Pure."""

from __future__ import annotations

import statistics
from collections import Counter

from sparkgap.monitor.ranks import Rank, words_of
from sparkgap.monitor.state import RunState

MAX_NAMED = 4
"""Of more ranks, those that do the same are told together."""


def of_gang(state: RunState) -> str:
    """Return the line of a run's ranks: ``"epoch 2/5 · loss 0.31 · rank 0 computing, 3% data wait; rank 1 …"``.

    Returns:
        "" where there are none.
    """
    if not state.ranks:
        return ""
    ranks = state.ranks.all()
    done, most = state.ranks.epochs
    epoch = f"epoch {min(done + 1, most)}/{most}" if most else f"step {min(r.latest.step for r in ranks):,}"
    loss = latest(state, "loss")
    parts = [epoch, "" if loss is None else f"loss {loss:.4g}", _each(ranks) if len(ranks) <= MAX_NAMED else _together(ranks)]
    return " · ".join(part for part in parts if part)


def latest(state: RunState, name: str) -> float | None:
    """Return the mean over tasks of the last values of a metric; None where there is none."""
    found = [series.points[-1][2] for (key, _), series in state.series.items() if key == name and series.points]
    return statistics.fmean(found) if found else None


def _each(ranks: list[Rank]) -> str:
    return "; ".join(f"rank {r.latest.rank} {words_of(r.latest.phase)}, {r.share('data'):.0%} data wait" for r in ranks)


def _together(ranks: list[Rank]) -> str:
    does = Counter(words_of(r.latest.phase) for r in ranks).most_common()
    waits = [r.share("data") for r in ranks]
    return f"{', '.join(f'{n} {what}' for what, n in does)}; data wait {min(waits):.0%} to {max(waits):.0%}"
