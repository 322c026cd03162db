"""Opening a study as a search's options say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need

if TYPE_CHECKING:
    import optuna

_JOURNALS = (".log", ".journal")


def open_study(
    objective: Callable[..., Any], given: optuna.Study | None, *, storage: Any, name: str | None, direction: Any,
    directions: Sequence[Any] | None, sampler: Any, pruner: Any, sequential: bool,
) -> optuna.Study:  # fmt: skip
    """Return the study of a search: the user's, one that a storage has, or a new one.

    Raises:
        ConfigurationError: options contradict each other or the stored study.
        MissingDependencyError: Optuna is not installed.
    """
    package: Any = need("optuna", extra="search", why="to search for hyper-parameters")
    if given is not None:
        _only_study(
            storage=storage, study_name=name, direction=direction, directions=directions, sampler=sampler, pruner=pruner
        )
        return given
    wanted = _wanted(direction, directions)
    if sampler is None and not sequential and len(wanted or ("minimize",)) == 1:
        sampler = _parallel_sampler(package)
    study: optuna.Study = package.create_study(
        storage=_storage(package, storage), study_name=name or _name(objective, storage), sampler=sampler, pruner=pruner,
        directions=wanted, load_if_exists=True,
    )  # fmt: skip
    has = directions_of(study)
    if wanted is not None and has != wanted:
        raise ConfigurationError(
            f"The stored study {study.study_name!r} is to {', '.join(has)}, and this search to {', '.join(wanted)}. "
            "Give the same directions, or another study_name."
        )
    return study


def directions_of(study: optuna.Study) -> tuple[str, ...]:
    """Return ``"minimize"`` or ``"maximize"`` for each objective."""
    return tuple(d.name.lower() for d in study.directions)


def _only_study(**others: Any) -> None:
    also = [name for name, value in others.items() if value is not None]
    if also:
        raise ConfigurationError(
            f"study= is given, and {', '.join(also)} too, which a study has itself. Leave one of them out."
        )


def _wanted(direction: Any, directions: Sequence[Any] | None) -> tuple[str, ...] | None:
    if direction is not None and directions is not None:
        raise ConfigurationError(f"direction={direction!r} and directions={directions!r}: give one of them.")
    if isinstance(directions, str):
        raise ConfigurationError(f"directions={directions!r}: a list, one for each objective; or direction={directions!r}.")
    given = directions if directions is not None else None if direction is None else [direction]
    if given is None:
        return None
    names = tuple(str(getattr(d, "name", d)).lower() for d in given)
    if not names or set(names) - {"minimize", "maximize"}:
        raise ConfigurationError(f"direction {given!r}: give 'minimize' or 'maximize' for each objective.")
    return names


def _parallel_sampler(optuna: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna 4 says so of the option
        return optuna.samplers.TPESampler(constant_liar=True)


def _name(objective: Any, storage: Any) -> str | None:
    if storage is None:
        return None
    name = getattr(objective, "__qualname__", None)
    if name is None or "<lambda>" in name:
        raise ConfigurationError(
            f"storage= is given and study_name= is not, and the objective ({name or type(objective).__name__}) has no name "
            "that would find the study again. Give study_name."
        )
    return f"{objective.__module__}.{name}"


def _storage(optuna: Any, storage: Any) -> Any:
    if not isinstance(storage, str | Path):
        return storage
    text = str(storage)
    if text.endswith(_JOURNALS) and "://" not in text:
        journal = optuna.storages.journal
        return optuna.storages.JournalStorage(journal.JournalFileBackend(text))
    if "://" not in text:
        raise ConfigurationError(
            f"storage={text!r}: give a URL such as 'sqlite:///{text}', a path that ends in .log or .journal, or an object of "
            "optuna.storages."
        )
    return text
