"""What the page shows of a search: its trials, best first, and the axes of their parameters. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sparkgap.monitor.trials import MAX_PARAMS, Known, Trials
from sparkgap.monitor.web.plain import cut

MAX_WORD = 80
MAX_NOTE = 300


def search_view(trials: Trials) -> dict[str, Any]:
    """Return the kept trials and the axes of their parameters.

    Returns:
        ``trials`` are lists in the order of ``columns``, best first; their ``params`` are in the order of ``axes``, None where
        a trial has none, and their values are texts where JSON has no number for them. ``counts`` has all trials by state.
    """
    names = _names(trials)
    return {
        "directions": list(trials.directions),
        "counts": {state: n for state, n in trials.counts.items() if n},
        "total": trials.total,
        "axes": [_axis(name, trials.distributions.get(name)) for name in names],
        "columns": ["number", "state", "rank", "values", "seconds", "started", "report", "params", "note"],
        "trials": [_trial(known, rank, names) for known, rank in trials.ranked()],
    }


def _names(trials: Trials) -> list[str]:
    """Return parameters in the order in which they were first met."""
    met = dict.fromkeys(trials.distributions) | dict.fromkeys(n for t in trials.kept.values() for n in t.params)
    return list(met)[:MAX_PARAMS]


def _axis(name: str, kind: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return one axis; one without a known range gets it from the values, on the page."""
    axis: dict[str, Any] = {"name": cut(name, MAX_WORD)}
    if kind is None:
        return axis
    if "choices" in kind:
        return axis | {"choices": [_word(c) for c in kind["choices"]]}
    return axis | dict(kind)


def _trial(known: Known, rank: int | None, names: list[str]) -> list[Any]:
    return [
        known.number, known.state, rank, [_number(v) for v in known.values], known.seconds, known.started, known.report,
        [[_word(known.params[name])] if name in known.params else None for name in names], cut(known.note, MAX_NOTE),
    ]  # fmt: skip


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _word(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    return value if value is None or isinstance(value, bool | int) else cut(str(value), MAX_WORD)
