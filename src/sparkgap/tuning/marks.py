"""Whose a running trial is: a mark in its attributes, by which a later search knows that its driver is gone."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

MARK = "sparkgap"
"""User attribute of every trial that a search here has begun."""
KIND = "kind"
"""User attribute of a trial that failed: how."""
GONE = frozenset({"driver", "cancelled"})
"""Kinds of trials that say nothing of their parameters: whoever ran them was ended. They do not count."""

_LIVE: set[str] = set()


@contextmanager
def alive(run: str) -> Iterator[dict[str, Any]]:
    """Give the mark of a search's trials; they count as its own as long as this lasts."""
    _LIVE.add(run)
    try:
        yield {"run": run, "host": platform.node(), "pid": os.getpid(), "began": began(os.getpid())}
    finally:
        _LIVE.discard(run)


def is_dead(mark: Any) -> bool:
    """Whether the search that a mark names is surely over. Of those on other machines this is not known: False."""
    if not isinstance(mark, dict) or mark.get("host") != platform.node():
        return False
    if mark.get("pid") == os.getpid() and mark.get("began") == began(os.getpid()):
        return mark.get("run") not in _LIVE
    return not _runs(int(mark["pid"]), mark.get("began"))


def began(pid: int) -> str | None:
    """Return when a process began, in the kernel's ticks: an id is used again. None where that cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except OSError:  # it has ended, or this is not Linux
        return None


def _runs(pid: int, since: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return since is None or began(pid) in (None, since)
    return since is None or began(pid) in (None, since)


def is_gone(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial ended with its driver, so that it says nothing."""
    return trial.user_attrs.get(KIND) in GONE


def end_stale(study: optuna.Study) -> int:
    """Tell the study that trials have failed whose driver is gone.

    Trials of drivers on other machines are known by Optuna's heartbeat, where the storage has one.

    Returns:
        how many were ended.
    """
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its heartbeat experimental
        fail_stale_trials(study)
    stale = [t for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if is_dead(t.user_attrs.get(MARK))]
    for trial in stale:
        fail(study, trial._trial_id, trial.number, {KIND: "driver", "error": "The driver that ran this trial has ended."})
    return len(stale)


def fail(study: optuna.Study, trial_id: int, number: int, facts: dict[str, str]) -> bool:
    """Tell the study that a trial has failed, and why; False where it had been ended by somebody else."""
    from optuna.trial import TrialState

    try:
        for key, value in facts.items():
            study._storage.set_trial_user_attr(trial_id, key, value)
    except RuntimeError:  # Optuna's: the trial is finished, as another driver found it stale
        if not study._storage.get_trial(trial_id).state.is_finished():
            raise
        return False
    if study._storage.get_trial(trial_id).state == TrialState.WAITING:  # which `tell` refuses
        return bool(study._storage.set_trial_state_values(trial_id, state=TrialState.FAIL))
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    return True
