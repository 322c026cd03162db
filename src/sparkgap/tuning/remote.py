"""A trial as its task sees it: each call is a question to the driver, which has the study. Needs no Optuna."""

from __future__ import annotations

import datetime
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkgap._optional import need
from sparkgap.scheduled import asking
from sparkgap.tuning.kept import KEPT, KeptFolder

Ask = Callable[[Mapping[str, Any]], Any]
_RAISED: dict[str, type[Exception]] = {
    e.__name__: e for e in (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError)
}
_PRUNED = "optuna.exceptions.TrialPruned"


class TrialPruned(Exception):
    """Ends a trial as pruned, like ``optuna.TrialPruned``, where the executors have no Optuna."""


@dataclass(frozen=True)
class StudyFacts:
    """What trials know of their study.

    Args:
        study_name: its name.
        directions: ``"minimize"`` or ``"maximize"`` for each objective.
        kept: where trials may keep what they make; None for nowhere.
    """

    study_name: str
    directions: tuple[str, ...]
    kept: KeptFolder | None = None


class RemoteStudy:
    """The study of a trial, in its task: name, directions, and `stop`.

    Args:
        facts: name and directions.
        ask: puts a question to the driver.
    """

    def __init__(self, facts: StudyFacts, ask: Ask) -> None:
        self.study_name = facts.study_name
        self.directions = facts.directions
        self._ask = ask

    @property
    def direction(self) -> str:
        """``"minimize"`` or ``"maximize"``.

        Raises:
            RuntimeError: there are several objectives.
        """
        if len(self.directions) > 1:
            raise RuntimeError("This study has several objectives; use `directions`.")
        return self.directions[0]

    def stop(self) -> None:
        """Begin no further trials; those that run come to their end."""
        _answer(self._ask({"do": "stop"}))


class RemoteTrial:
    """What an objective of `gap.search` gets: the methods of ``optuna.Trial``, answered by the driver.

    Every ``suggest_...``, `should_prune`, and attribute but `number` and `study` costs one round trip; `report` does not wait.

    Args:
        number: of the trial in the study.
        facts: what is known of the study.
        ask: puts a question (JSON) to the driver and returns its answer.
        tell: likewise without waiting.
    """

    def __init__(self, number: int, facts: StudyFacts, ask: Ask, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self.number = number
        self.study = RemoteStudy(facts, ask)
        self._ask = ask
        self._tell = tell
        self._kept = facts.kept
        self._steps: set[int] = set()

    # parameters

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """Return a value between `low` and `high`, both included; see ``optuna.Trial.suggest_float``."""
        step = None if step is None else float(step)
        return float(self._put("suggest_float", name=name, low=float(low), high=float(high), step=step, log=bool(log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return an integer between `low` and `high`, both included; see ``optuna.Trial.suggest_int``."""
        return int(self._put("suggest_int", name=name, low=int(low), high=int(high), step=int(step), log=bool(log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices.

        Choices that are not all None, bool, int, float or str stay in the task: the study then keeps the number of the chosen
        one, from 0.
        """
        chosen = list(choices)
        if all(c is None or isinstance(c, bool | int | float | str) for c in chosen):
            return self._put("suggest_categorical", name=name, choices=chosen)
        return chosen[self._put("suggest_categorical", name=name, choices=list(range(len(chosen))))]

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Do as `suggest_float`; deprecated by Optuna."""
        _deprecated("suggest_uniform")
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Do as `suggest_float` with ``log=True``; deprecated by Optuna."""
        _deprecated("suggest_loguniform")
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Do as `suggest_float` with a step; deprecated by Optuna."""
        _deprecated("suggest_discrete_uniform")
        return self.suggest_float(name, low, high, step=q)

    # results on the way

    def report(self, value: float, step: int) -> None:
        """Tell the study a value on the way. Does not wait.

        Args:
            value: of the objective so far.
            step: from 0; a second value for the same step is ignored, with a warning.

        Raises:
            NotImplementedError: the study has several objectives.
            TypeError: the value is no number, or the step no integer.
            ValueError: the step is below 0.
        """
        self._one_objective("report")
        try:
            value, step = float(value), int(step)
        except (TypeError, ValueError):
            raise TypeError(f"report({value!r}, {step!r}) takes a float and an int.") from None
        if step < 0:
            raise ValueError(f"report: step={step} must not be below 0.")
        if step in self._steps:
            warnings.warn(f"The value for step {step} is ignored: one has been reported already.", stacklevel=2)
            return
        self._steps.add(step)
        self._tell({"do": "report", "value": value, "step": step})

    def should_prune(self) -> bool:
        """Whether the pruner gives this trial up; then raise ``optuna.TrialPruned``.

        Raises:
            NotImplementedError: the study has several objectives.
        """
        self._one_objective("should_prune")
        return bool(self._put("should_prune"))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep a value of JSON with the trial.

        Raises:
            TypeError: the value is not of JSON.
        """
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"set_user_attr({key!r}): the value must be of JSON ({error}).") from None
        self._put("set_user_attr", key=key, value=value)

    def set_constraint(self, key: str, value: float) -> None:
        """Set a constraint, met where it is not above 0; needs Optuna 5 on the driver."""
        self._put("set_constraint", key=key, value=float(value))

    def keep(self, value: Any) -> None:
        """Keep what the trial has made, a model for example, as long as the trial is among the best; the last call counts.

        Raises:
            RuntimeError: `gap.search` was called without ``checkpoint=``.
            DataError: it cannot be pickled, or written.
        """
        if self._kept is None:
            raise RuntimeError("trial.keep needs a folder that all machines share: gap.search(..., checkpoint=folder).")
        self.set_user_attr(KEPT, self._kept.write(self.number, value))

    # what is known of the trial

    @property
    def params(self) -> dict[str, Any]:
        """The parameters so far; of a grid, all that are given."""
        return dict(self._read("params"))

    @property
    def relative_params(self) -> dict[str, Any]:
        """What the sampler has chosen together, ahead of the suggestions."""
        return dict(self._read("relative_params"))

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What `set_user_attr` has set."""
        return dict(self._read("user_attrs"))

    @property
    def distributions(self) -> dict[str, Any]:
        """The ranges of the parameters so far, as Optuna's objects.

        Raises:
            MissingDependencyError: there is no Optuna where the task runs.
        """
        kinds = need("optuna.distributions", extra="search", why="to make its distributions in a task")
        return {name: kinds.json_to_distribution(text) for name, text in self._read("distributions").items()}

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """When the trial began, by the driver's clock."""
        text = self._read("datetime_start")
        return None if text is None else datetime.datetime.fromisoformat(text)

    def _read(self, what: str) -> Any:
        return self._put("read", what=what)

    def _put(self, do: str, **about: Any) -> Any:
        return _answer(self._ask({"do": do, **about}))

    def _one_objective(self, method: str) -> None:
        if len(self.study.directions) > 1:
            raise NotImplementedError(f"trial.{method}: Optuna prunes no trials of several objectives.")


@dataclass(frozen=True)
class TrialTask:
    """The function that tasks run: the objective with its trial. Travels pickled.

    Args:
        objective: the user's.
        facts: of the study.
    """

    objective: Callable[..., Any]
    facts: StudyFacts

    def __call__(self, number: int, **placed: Any) -> tuple[str, Any]:
        """Run one trial.

        Returns:
            ``("values", [float, ...])``, ``("pruned", why)``, or ``("unusable", why)`` where what the objective gave back is
            no value: plain objects, as the driver unpickles them.
        """
        try:
            returned = self.objective(RemoteTrial(number, self.facts, asking.ask, asking.tell), **placed)
        except Exception as error:
            if not is_pruned(error):
                raise
            return "pruned", str(error)
        return measured(returned, len(self.facts.directions))


def is_pruned(error: BaseException) -> bool:
    """Whether an exception ends a trial as pruned; told by name, as Optuna is not imported for it."""
    return isinstance(error, TrialPruned) or any(f"{t.__module__}.{t.__qualname__}" == _PRUNED for t in type(error).__mro__)


def measured(returned: Any, objectives: int) -> tuple[str, Any]:
    """Return what an objective gave back as floats, by Optuna's rules: ``("values", list)`` or ``("unusable", why)``."""
    several = isinstance(returned, Sequence) and not isinstance(returned, str)
    values = []
    for one in returned if several else [returned]:
        try:
            values.append(float(one))
        except Exception:  # of any class: tensors raise what they like
            return "unusable", f"The objective returned {_short(one)}, which is no float."
        if math.isnan(values[-1]):
            return "unusable", "The objective returned nan."
    if len(values) != objectives:
        return "unusable", f"The objective returned {len(values)} values; the study has {objectives} objectives."
    return "values", values


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # the user's own class
        text = f"(its __repr__ raised {type(error).__name__})"
    return f"{text[:200]} of type {type(value).__name__}"


def _answer(answer: Any) -> Any:
    """Return the value of an answer, or raise what it says."""
    if "error" not in answer:
        return answer["value"]
    name, message = answer["error"], answer["message"]
    if name in _RAISED:
        raise _RAISED[name](message)
    raise RuntimeError(f"{name}: {message}")


def _deprecated(method: str) -> None:
    warnings.warn(f"{method} is deprecated; use suggest_float.", FutureWarning, stacklevel=3)
