"""Tells the monitor of a search's trials, for those who look on. Driver side."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkgap.monitor.events import Trial
from sparkgap.monitor.trials import MAX_BEST, MAX_LATEST

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sparkgap.monitor.store import Store

EVERY = 1.0
"""Seconds between two reports of a trial that are told."""
MAX_WORD = 200
MAX_CHOICES = 100
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class Board:
    """What is told of one search. Says nothing before `open`. Thread-safe.

    Args:
        study: of the search.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._store: Store | None = None
        self._run = ""
        self._reported: dict[int, float] = {}
        self._lock = threading.Lock()

    def open(self, store: Store, run: str) -> None:
        """Tell of the study's trials so far, and from now on of all news.

        Args:
            store: of the monitor; where it does not know the run, the monitor is off.
            run: id of the run.
        """
        with store.reading(run) as state:
            if state is None:
                return
        with self._lock:  # what is begun meanwhile is told here, or after this
            self._store, self._run = store, run
            for trial in _worth_telling(self._study):
                self._say(**_facts(trial))

    def begun(self, number: int) -> None:
        """Tell of a trial that begins now."""
        with self._lock:
            self._say(number=number, started=time.time())

    def asked(self, number: int, question: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """Tell what a trial's question and the answer to it say of the trial: a parameter, or a value on its way."""
        do = str(question.get("do"))
        if "error" in said:
            return
        with self._lock:
            if do.startswith("suggest_"):
                name = str(question["name"])
                self._say(number=number, params={name: _plain(said["value"])}, distributions={name: _range(question)})
            elif do == "read" and question.get("what") == "params":  # of a grid
                self._say(number=number, params={str(k): _plain(v) for k, v in said["value"].items()})
            elif do == "report" and time.monotonic() - self._reported.get(number, -math.inf) > EVERY:
                self._reported[number] = time.monotonic()
                self._say(number=number, report=(float(question["step"]), _finite(question["value"])))

    def ended(self, trial: FrozenTrial) -> None:
        """Tell how a trial ended."""
        with self._lock:
            self._reported.pop(trial.number, None)
            self._say(**_facts(trial))

    def cancelled(self, number: int, why: str) -> None:
        """Tell that a trial was ended before its end."""
        with self._lock:
            self._reported.pop(number, None)
            self._say(number=number, state="failed", note=why)

    def _say(self, **about: Any) -> None:
        if self._store is not None:
            self._store.say(Trial(run=self._run, time=time.time(), **about))


def _worth_telling(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have begun; of very many, the best and the latest: others would not be kept."""
    begun = [t for t in study.get_trials(deepcopy=False) if t.state.name != "WAITING"]
    if len(begun) <= MAX_BEST + MAX_LATEST:
        return begun
    complete = [t for t in begun[:-MAX_LATEST] if t.state.name == "COMPLETE"]
    complete.sort(key=lambda t: t.values[0], reverse=study.directions[0].name == "MAXIMIZE")
    return complete[:MAX_BEST] + begun[-MAX_LATEST:]


def _facts(trial: FrozenTrial) -> dict[str, Any]:
    over, last = trial.state.is_finished(), trial.last_step
    return {
        "number": trial.number,
        "state": _STATES.get(trial.state.name, "running"),
        "values": tuple(trial.values or ()) if over else (),
        "params": {name: _plain(value) for name, value in trial.params.items()},
        "distributions": {name: _range(vars(kind)) for name, kind in trial.distributions.items()},
        "report": None if last is None else (float(last), _finite(trial.intermediate_values[last])),
        "started": trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
        "seconds": trial.duration.total_seconds() if trial.duration else 0.0,
        "note": str(trial.user_attrs.get("error", ""))[:MAX_WORD] if trial.state.name == "FAIL" else "",
    }


def _range(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a range as it travels, of a question or of the fields of Optuna's distribution."""
    if "choices" in about:
        return {"choices": [_plain(c) for c in about["choices"]][:MAX_CHOICES]}
    return {"low": about["low"], "high": about["high"], "log": bool(about.get("log"))}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value
    simple = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if simple else str(value)[:MAX_WORD]


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
