"""The driver's side of a search: begins trials, answers what they ask, and tells the study how they ended."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkgap._errors import DataError
from sparkgap.scheduled.outcome import Ending
from sparkgap.tuning.answers import Grid, Question, answer, refused
from sparkgap.tuning.board import Board
from sparkgap.tuning.grid import FIXED
from sparkgap.tuning.kept import KeptFolder
from sparkgap.tuning.marks import KIND, MARK, fail, is_gone
from sparkgap.tuning.plateau import Plateau
from sparkgap.tuning.studies import directions_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_log = logging.getLogger("sparkgap.tuning")

MAX_TEXT = 8000
"""Characters of a text that are kept with a failed trial, its end; databases have limits too."""
Callback = Callable[["optuna.Study", "FrozenTrial"], None]


@dataclass(frozen=True)
class Limits:
    """When a search begins no further trials.

    Args:
        trials: so many more have begun; None: no limit.
        seconds: from now on.
        patience: finished trials without a new best.
    """

    trials: int | None = None
    seconds: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class _Running:
    trial: optuna.Trial
    fixed: Mapping[str, Any]
    heartbeat: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Conductor:
    """Holds the trials of one search. Lives on the driver; Optuna's studies may be used by several threads.

    Args:
        study: the study.
        mark: that trials get, so that a later search knows whose they were.
        limits: when to begin no more.
        callbacks: called with the study and each finished trial, in the runner's thread.
        grid: values of each parameter, where every trial comes from a grid.
        kept: where trials keep what they make.

    Attributes:
        board: tells those who look on.
    """

    def __init__(
        self, study: optuna.Study, mark: Mapping[str, Any], limits: Limits, *, callbacks: Sequence[Callback] = (),
        grid: Grid | None = None, kept: KeptFolder | None = None,
    ) -> None:  # fmt: skip
        self._study = study
        self._mark = dict(mark)
        self._left = limits.trials
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        self._plateau = Plateau(limits.patience, [d == "maximize" for d in directions_of(study)])
        self._callbacks = tuple(callbacks)
        self._grid = grid
        self._kept = kept
        self._running: dict[int, _Running] = {}
        self._beginning = threading.Lock()
        self._closed = False
        self.board = Board(study)
        study._stop_flag = False
        for trial in _finished(study):
            self._plateau.note(trial.values if trial.state.name == "COMPLETE" else None)

    # the thread of the items

    def numbers(self) -> Iterator[int]:
        """Begin trials, one at each step, and give their numbers, until a limit is reached."""
        while True:
            with self._beginning:  # so that `close` leaves none behind
                number = None if self.enough() else self._begin()
            if number is None:
                return
            yield number

    def enough(self) -> bool:
        """Whether a limit is reached, or somebody has stopped the study."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self._closed or self._left == 0 or late or self._plateau.reached or self._study._stop_flag

    def _begin(self) -> int | None:
        study = self._study
        with _in_loop(study):
            trial = self._ask()
            fixed = study._storage.get_trial(trial._trial_id).system_attrs.get(FIXED, {})
            if self._grid is not None and not fixed:  # another driver has just taken the last row
                fail(study, trial._trial_id, trial.number, {KIND: "cancelled", "error": "The grid had no row left."})
                return None
            running = self._running[trial.number] = _Running(trial, fixed)
            running.heartbeat.enter_context(_heartbeat(trial))
            if not fixed:
                _ = trial.relative_params  # sampled in this thread: the runner's is to answer other trials meanwhile
        if self._left is not None:
            self._left -= 1
        self.board.begun(trial.number)
        return trial.number

    def _ask(self) -> optuna.Trial:
        """Begin a trial that bears the mark from its first moment: this process may be killed at any."""
        from optuna.trial import TrialState, create_trial

        study = self._study
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={MARK: self._mark}))
        trial = study.ask()
        if trial.user_attrs.get(MARK) != self._mark:  # it was waiting already
            trial.set_user_attr(MARK, self._mark)
        return trial

    # the runner's thread

    def asked(self, number: int, question: Question) -> dict[str, Any]:
        """Answer a question of a trial's task."""
        running = self._running.get(number)
        if running is None:
            return refused("RuntimeError", f"Trial {number} has ended already.")
        if question.get("do") == "stop":
            self._study._stop_flag = True
            return {"value": None}
        with _in_loop(self._study):
            grid = self._grid or {}
            said = answer(running.trial, question, grid, {k: v for k, v in running.fixed.items() if k in grid})
        if "error" in said and question.get("do") == "report":  # whose task does not wait for the answer
            _log.warning("A report of trial %d is lost: %s: %s", number, said["error"], said["message"])
        self.board.asked(number, question, said)
        return said

    def told(self, number: int, ending: Ending) -> None:
        """Tell the study how a trial ended; then call the callbacks. What these raise goes on and ends the run."""
        running = self._running.pop(number, None)
        if running is None:
            return
        running.heartbeat.close()
        with _in_loop(self._study):
            self._tell(running.trial, ending)
            trial = self._study._storage.get_trial(running.trial._trial_id)
            self._plateau.note(trial.values if trial.state.name == "COMPLETE" else None)
            self.board.ended(trial)
            self._prune_kept()
            for callback in self._callbacks:
                callback(self._study, trial)

    def _tell(self, trial: optuna.Trial, ending: Ending) -> None:
        from optuna.trial import TrialState

        what, content = pickle.loads(ending.value) if ending.kind == "ok" else (None, None)
        if what == "values":
            self._study.tell(trial.number, content, skip_if_finished=True)
        elif what == "pruned":
            self._study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            facts = {KIND: "unusable", "error": str(content)} if what == "unusable" else _facts(ending)
            fail(self._study, trial._trial_id, trial.number, facts)
            _log.warning("Trial %d has failed: %s", trial.number, facts["error"])
            return
        _log.info("Trial %d: %s %s", trial.number, what, content)

    def _prune_kept(self) -> None:
        try:
            if self._kept is not None:
                self._kept.prune(self._study)
        except DataError as error:  # too much is kept then, which is no reason to end a search
            _log.warning("%s", error)

    # the caller's thread, at the end

    def close(self, why: str) -> None:
        """Begin no more trials, and tell the study of those that still ran that they have failed: they were ended."""
        with self._beginning:
            self._closed = True
            left = dict(self._running)
            self._running.clear()
        for number, running in left.items():
            running.heartbeat.close()
            fail(self._study, running.trial._trial_id, number, {KIND: "cancelled", "error": why})
            self.board.cancelled(number, why)


def finished(study: optuna.Study) -> int:
    """Return how many trials have finished: without those that were ended with their driver."""
    return len(_finished(study))


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return finished trials in the order of their ends."""
    over = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and not is_gone(t)]
    return sorted(over, key=lambda t: (t.datetime_complete is not None, t.datetime_complete, t.number))


def _facts(ending: Ending) -> dict[str, str]:
    texts = ending.texts
    error = ": ".join(texts[name] for name in ("error", "message") if texts.get(name)) or ending.kind
    facts = {KIND: ending.kind, "error": error[:MAX_TEXT]}
    return facts | {name: texts[name][-MAX_TEXT:] for name in ("traceback", "output") if texts.get(name)}


@contextlib.contextmanager
def _in_loop(study: optuna.Study) -> Iterator[None]:
    """Do as in ``Study.optimize``, whose place a search takes: there, `Study.stop` and heartbeats are allowed."""
    before = study._thread_local.in_optimize_loop
    study._thread_local.in_optimize_loop = True
    try:
        yield
    finally:
        study._thread_local.in_optimize_loop = before


def _heartbeat(trial: optuna.Trial) -> Any:
    """Return what tells the storage that a trial's driver lives, where it wants to know."""
    from optuna.storages._heartbeat import get_heartbeat_thread

    return get_heartbeat_thread(trial._trial_id, trial.study._storage)
