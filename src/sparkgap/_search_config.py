"""The file that `sparkgap search` reads: what it may say, and what that means to `gap.search`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need

_SEARCH = {
    "trials": int, "timeout": float, "patience": int, "direction": str, "directions": list, "storage": str, "study_name": str,
    "grid": (dict, list), "parallel": int, "cpus": int, "gpus": float, "memory": (int, str), "trial_timeout": float,
    "fresh": bool, "preload": list, "catch": bool,
}  # fmt: skip
"""Keys that are options of `gap.search`, with the types they have in a file."""
KEYS = ("objective", *_SEARCH, "sampler", "pruner", "space")
_KINDS = {"float": ("log", "step"), "int": ("log", "step"), "choice": ()}
"""Kinds of parameters in a space, and what may stand beside each."""


def read(path: Path) -> dict[str, Any]:
    """Read a TOML, JSON or YAML file, by its suffix, and look at its keys and their types.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, or has a key or a value that it may not have.
        MissingDependencyError: reading its format needs a package that is not installed.
    """
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}. Give a TOML, JSON or YAML file that describes the search.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(f"{path}: its suffix is none of {', '.join(_READERS)}.")
    try:
        found = reader(path.read_text(encoding="utf-8"))
    except ConfigurationError:
        raise
    except Exception as error:  # each reader has classes of its own, and UTF-8 has one, too
        if type(error).__module__.startswith("sparkgap."):
            raise
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} holds a {type(found).__name__}; give keys and values, the first one objective.")
    _check_names(str(path), found, KEYS)
    if not isinstance(found.get("objective"), str):
        raise ConfigurationError(f'{path}: objective is {found.get("objective")!r}. Write objective = "module:function".')
    for name, kinds in _SEARCH.items():
        if name in found:
            _check_type(name, found[name], kinds)
    return found


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `gap.search` that a file gives; the sampler and the pruner are made here.

    Raises:
        ConfigurationError: the search would never end, or Optuna has no such sampler or pruner, or it takes other arguments.
        MissingDependencyError: Optuna is not installed.
    """
    options = {name: config[name] for name in _SEARCH if name in config}
    if "trials" in options and "grid" in options:
        raise ConfigurationError("There is a grid, which has a trial a row, and trials, too. Leave out trials.")
    if not {"trials", "timeout", "patience", "grid"} & set(options):
        raise ConfigurationError("This search would never end. Give trials, timeout, patience or grid.")
    for part in ("sampler", "pruner"):
        if part in config:
            options[part] = _made(part, config[part])
    return options


def objective_of(fn: Callable[..., Any], space: Any) -> Callable[..., Any]:
    """Return the objective for `gap.search`: the function itself, or with a space one that calls it with its parameters.

    Raises:
        ConfigurationError: the space makes no sense, or the function does not take its parameters.
    """
    if space is None:
        return fn
    if not isinstance(space, dict) or not space:
        raise ConfigurationError(f"space is {space!r}. Give parameters, each like lr = {{float = [0.001, 0.1], log = true}}.")
    return InSpace(fn, tuple(_parameter(name, about) for name, about in space.items()))


@dataclass(frozen=True)
class Parameter:
    """One parameter of a space.

    Args:
        name: of it.
        kind: ``"float"``, ``"int"`` or ``"choice"``.
        values: both ends, or the choices.
        options: ``log`` and ``step``.
    """

    name: str
    kind: str
    values: tuple[Any, ...]
    options: Mapping[str, Any]

    def suggested(self, trial: Any) -> Any:
        """Return the value that a trial gets."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.name, list(self.values))
        suggest = trial.suggest_float if self.kind == "float" else trial.suggest_int
        return suggest(self.name, *self.values, **self.options)


class InSpace:
    """A function of keyword parameters as an objective. Runs in tasks.

    Args:
        fn: the function; where it has a parameter ``trial``, it gets that, too.
        space: its parameters.

    Raises:
        ConfigurationError: it does not take them.
    """

    def __init__(self, fn: Callable[..., Any], space: tuple[Parameter, ...]) -> None:
        self._fn = fn
        self._space = space
        self._wants_trial = _takes(fn, [parameter.name for parameter in space])
        self.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)
        self.__module__ = fn.__module__

    def __call__(self, trial: Any) -> Any:
        """Call the function with what the trial suggests."""
        values = {parameter.name: parameter.suggested(trial) for parameter in self._space}
        return self._fn(**({"trial": trial} if self._wants_trial else {}), **values)


def _takes(fn: Callable[..., Any], names: list[str]) -> bool:
    """Look whether a function takes these keywords and no others; whether it wants the trial."""
    parameters = inspect.signature(fn).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [name for name in names if name not in parameters and not anything]
    needed = [
        name for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in (*names, "trial")
    ]  # fmt: skip
    if missing or needed:
        wrong = [f"it does not take {', '.join(missing)}"] if missing else []
        wrong += [f"it also needs {', '.join(needed)}"] if needed else []
        raise ConfigurationError(
            f"With [space], the objective is called with the parameters {', '.join(names)}; {', and '.join(wrong)}."
        )
    return "trial" in parameters and "trial" not in names


def _parameter(name: str, about: Any) -> Parameter:
    kinds = [kind for kind in _KINDS if isinstance(about, dict) and kind in about]
    if len(kinds) != 1:
        raise ConfigurationError(
            f"space.{name} is {about!r}. Give one of float = [low, high], int = [low, high] and choice = [...]."
        )
    kind = kinds[0]
    values, options = about[kind], {key: value for key, value in about.items() if key != kind}
    _check_names(f"space.{name}", options, _KINDS[kind], also=f" beside {kind}")
    number = int if kind == "int" else float
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"space.{name}.{kind} is {values!r}. Give a list.")
    if kind != "choice":
        if len(values) != 2 or not all(_is(value, number) for value in values) or not values[0] <= values[1]:
            raise ConfigurationError(f"space.{name}.{kind} is {values!r}. Give two numbers, the lower one first.")
        _check_type(f"space.{name}.log", options.get("log", False), bool)
        _check_type(f"space.{name}.step", options.get("step", 1), number)
        if options.get("log") and "step" in options:
            raise ConfigurationError(f"space.{name} has log and step. Give one of them.")
        if options.get("log") and values[0] <= 0:
            raise ConfigurationError(f"space.{name} has log and begins at {values[0]}. Begin above 0.")
    return Parameter(name, kind, tuple(values), options)


def _made(part: str, about: Any) -> Any:
    """Make one of Optuna's samplers or pruners of its name, or of a table with its name and arguments."""
    about = {"name": about} if isinstance(about, str) else about
    if not isinstance(about, dict) or not isinstance(about.get("name"), str):
        raise ConfigurationError(f'{part} is {about!r}. Give a name, or {{name = "…"}} with its arguments beside it.')
    need("optuna", extra="search", why="to search for hyper-parameters")
    home = importlib.import_module(f"optuna.{part}s")
    base = getattr(home, f"Base{part.capitalize()}")
    known = [n for n in home.__all__ if inspect.isclass(getattr(home, n)) and issubclass(getattr(home, n), base)]
    known.remove(base.__name__)
    _check_names(part, {about["name"]: None}, known)
    try:
        return getattr(home, about["name"])(**{key: value for key, value in about.items() if key != "name"})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{part}: Optuna's {about['name']} does not take this: {error}") from error


def _check_names(where: str, found: Mapping[str, Any], known: Any, also: str = "") -> None:
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigurationError(f"{where} has {name!r}{also}.{hint} Known are: {', '.join(known) or 'none'}.")


def _check_type(name: str, value: Any, kinds: Any) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not any(_is(value, kind) for kind in kinds):
        raise ConfigurationError(f"{name} is {value!r}; give {' or '.join(_WORDS[kind] for kind in kinds)}.")


_WORDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a table", bool: "true or false"}


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _toml(text: str) -> Any:
    try:
        reader = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        try:
            reader = importlib.import_module("tomli")
        except ModuleNotFoundError:
            raise ConfigurationError(
                "Python 3.10 cannot read TOML by itself. Install tomli, or write the file as JSON or YAML."
            ) from None
    return reader.loads(text)


def _yaml(text: str) -> Any:
    try:
        reader = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Reading YAML needs pyyaml, which is not installed. Install it, or write TOML or JSON."
        ) from None
    return reader.safe_load(text)


_READERS: dict[str, Callable[[str], Any]] = {".toml": _toml, ".json": json.loads, ".yaml": _yaml, ".yml": _yaml}
