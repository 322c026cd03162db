"""The driver's answers to what trials ask. Plain functions of an ``optuna.Trial`` and a question of JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkgap.tuning.marks import MARK

if TYPE_CHECKING:
    import optuna

Question = Mapping[str, Any]
Grid = Mapping[str, tuple[Any, ...]]

METHODS = frozenset(
    {"suggest_float", "suggest_int", "suggest_categorical", "report", "should_prune", "set_user_attr", "set_constraint"}
)


def answer(trial: optuna.Trial, question: Question, grid: Grid, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question.

    Args:
        trial: whose task asks.
        question: ``{"do": method, argument: value, ...}``, or ``{"do": "read", "what": attribute}``.
        grid: the values of each parameter of a grid, where the search has one.
        fixed: the parameters that the grid gives this trial.

    Returns:
        ``{"value": value}``, or ``{"error": type, "message": text}`` for the task to raise.
    """
    try:
        return {"value": _value(trial, dict(question), grid, fixed)}
    except Exception as error:  # of any class, also of samplers: it is raised in the task, where it belongs
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        return refused(type(error).__name__, str(message))


def refused(error: str, message: str) -> dict[str, Any]:
    """Return an answer that raises."""
    return {"error": error, "message": message}


def _value(trial: optuna.Trial, about: dict[str, Any], grid: Grid, fixed: Mapping[str, Any]) -> Any:
    do = about.pop("do", None)
    if do in METHODS:
        return _plain(getattr(trial, do)(**about))
    if do == "read" and about.get("what") in _READ:
        if about["what"] == "params":
            _suggest_fixed(trial, grid, fixed)
        return _READ[about["what"]](trial)
    raise ValueError(f"A trial cannot ask for {do!r}.")


def _plain(value: Any) -> Any:
    """Return NumPy's scalars, which pruners and samplers like to give, as Python's: JSON has no others."""
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value


def _suggest_fixed(trial: optuna.Trial, grid: Grid, fixed: Mapping[str, Any]) -> None:
    """Record what a grid gives: objectives over a table read ``trial.params`` and suggest nothing."""
    for name in fixed.keys() - trial.params.keys():
        trial.suggest_categorical(name, grid[name])


def _distributions(trial: optuna.Trial) -> dict[str, str]:
    from optuna.distributions import distribution_to_json

    return {name: distribution_to_json(kind) for name, kind in trial.distributions.items()}


_READ: dict[str, Callable[[optuna.Trial], Any]] = {
    "params": lambda trial: {k: _plain(v) for k, v in trial.params.items()},
    "relative_params": lambda trial: {k: _plain(v) for k, v in trial.relative_params.items()},
    "user_attrs": lambda trial: {k: v for k, v in trial.user_attrs.items() if k != MARK},
    "distributions": _distributions,
    "datetime_start": lambda trial: trial.datetime_start.isoformat() if trial.datetime_start else None,
}
