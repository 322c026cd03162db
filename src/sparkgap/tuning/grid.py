"""Grids: combinations of values, or tables of them, as trials that wait in the study."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError
from sparkgap.tuning.marks import KIND, MARK, fail, is_gone

if TYPE_CHECKING:
    import optuna

Row = dict[str, Any]
FIXED = "fixed_params"
"""Where Optuna keeps the parameters of a trial that was enqueued."""


def rows_of(grid: Any) -> list[Row]:
    """Return the rows of a grid.

    Args:
        grid: a dict of lists: all combinations; a list of dicts; or an Arrow table, a pandas or Spark DataFrame: a trial a
            row, where an empty cell leaves its parameter to the sampler.

    Raises:
        ConfigurationError: it is none of these, is empty, or holds what cannot be a parameter.
    """
    rows = [{str(name): _plain(value, name) for name, value in row.items()} for row in _raw(grid)]
    if not rows:
        raise ConfigurationError("grid= has no rows, so there is nothing to try. Give at least one value for each parameter.")
    return rows


def _raw(grid: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(grid, Mapping):
        return _combinations(grid)
    if hasattr(grid, "toArrow"):  # Spark's DataFrame
        grid = grid.toArrow()
    elif hasattr(grid, "iloc") and hasattr(grid, "columns"):  # pandas'
        import pyarrow as pa

        grid = pa.Table.from_pandas(grid, preserve_index=False)
    if hasattr(grid, "to_pylist") and hasattr(grid, "column_names"):
        return [{k: v for k, v in row.items() if v is not None} for row in grid.to_pylist()]
    if isinstance(grid, list | tuple) and all(isinstance(row, Mapping) for row in grid):
        return grid
    raise ConfigurationError(
        f"grid= is a {type(grid).__name__}. Give a dict of lists, a list of dicts, or an Arrow table, pandas or Spark "
        "DataFrame."
    )


def _combinations(grid: Mapping[str, Any]) -> list[Row]:
    for name, values in grid.items():
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ConfigurationError(
                f"grid={{{name!r}: {values!r}}}: give a list of values, also of a single one: [{values!r}]."
            )
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _plain(value: Any, name: Any) -> Any:
    value = value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigurationError(
        f"grid=: a value of {name!r} is a {type(value).__name__}. Optuna keeps None, bool, int, float and str; give the name "
        "or the number of anything else, and look it up in the objective."
    )


def choices_of(rows: list[Row]) -> dict[str, tuple[Any, ...]]:
    """Return the different values of each parameter, in the order of the rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, {})[json.dumps(value)] = value
    return {name: tuple(values.values()) for name, values in found.items()}


def enqueue(study: optuna.Study, rows: list[Row], mark: Mapping[str, Any]) -> int:
    """Add a waiting trial for each row that the study does not have yet, as often as the grid does.

    Returns:
        how many rows wait now.
    """
    from optuna.trial import TrialState

    had = Counter(_key(t.system_attrs.get(FIXED, {})) for t in study.get_trials(deepcopy=False) if not is_gone(t))
    for row in rows:
        key = _key(row)
        if had[key] > 0:
            had[key] -= 1
        else:
            study.enqueue_trial(row, user_attrs={MARK: dict(mark)})
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for trial in waiting:
        if FIXED not in trial.system_attrs:  # a killed driver was about to begin it
            fail(study, trial._trial_id, trial.number, {KIND: "driver", "error": "The driver has ended before this trial."})
    return sum(FIXED in trial.system_attrs for trial in waiting)


def _key(row: Row) -> str:
    return json.dumps(row, sort_keys=True)
