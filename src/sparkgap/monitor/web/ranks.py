"""What the page shows of a gang: a row for each rank. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparkgap.monitor.events import Task
from sparkgap.monitor.ranks import OVER, PHASES, Rank, words_of
from sparkgap.monitor.state import RunState
from sparkgap.monitor.web.plain import cut

MAX_SHOWN = 500
MAX_NAME = 200


def ranks_view(state: RunState) -> list[dict[str, Any]]:
    """Return the ranks of a run, by number.

    Returns:
        ``phases`` are shares of a rank's time, the start included; ``data_wait`` is the share without it.
    """
    return [_rank(rank, _status(state, rank)) for rank in state.ranks.all()[:MAX_SHOWN]]


def main_seconds(state: RunState) -> dict[str, float]:
    """Return seconds by phase over all ranks."""
    return {phase: spent for phase, spent in state.ranks.seconds().items() if spent > 0}


def titles_of(state: RunState) -> dict[str, str]:
    """Return the phases of ranks, in a few words; nothing where there are no ranks."""
    return {phase: words_of(phase) for phase in PHASES} if state.ranks else {}


def rank_of(state: RunState) -> Mapping[Task | None, int]:
    """Return which rank was in which attempt of a task."""
    return {rank.latest.task: number for number, rank in state.ranks.known.items()}


def _status(state: RunState, rank: Rank) -> str:
    if rank.latest.phase in OVER:
        return rank.latest.phase
    attempt = state.attempts.get(rank.latest.task) if rank.latest.task is not None else None
    return "running" if attempt is None or attempt.status == "running" else "lost"


def _rank(rank: Rank, status: str) -> dict[str, Any]:
    told = rank.latest
    whole = sum(told.phases.values())
    return {
        "rank": told.rank, "status": status, "phase": "" if told.phase in OVER else words_of(cut(told.phase, MAX_NAME)),
        "host": cut(told.host, MAX_NAME), "epoch": told.epoch, "epochs": told.epochs, "step": told.step, "rows": told.rows,
        "rate": rank.rate, "data_wait": rank.share("data"), "seconds": whole,
        "phases": [
            {"phase": p, "title": words_of(p), "share": told.phases[p] / whole, "seconds": told.phases[p]}
            for p in PHASES if told.phases.get(p, 0.0) > 0
        ],
    }  # fmt: skip
