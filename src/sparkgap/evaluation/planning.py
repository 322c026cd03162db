"""From a call to a plan: which columns, which kind of task; refuses what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.blocks.keys import can_be_key
from sparkgap.evaluation.plan import Kind, Plan
from sparkgap.tensors.kinds import is_list, is_string, plain_type
from sparkgap.tensors.vectors import is_vector

_TASKS = ("auto", "classification", "binary", "regression")
_NULLS = ("skip", "raise")


def plan_of(
    types: dict[str, pa.DataType | None],
    *,
    label: str,
    prediction: str | None,
    probability: str | None,
    task: str,
    weight: str | None = None,
    by: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    positive: Any = None,
    top_k: Sequence[int] = (5,),
    bins: int = 10,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    nulls: str = "skip",
) -> Plan:
    """Return the plan of an evaluation.

    Raises:
        ConfigurationError: an option is wrong, or the task cannot be told.
        SignatureError: a column is not there, or of a type that does not fit.
    """
    if task not in _TASKS or nulls not in _NULLS:
        raise ConfigurationError(
            f"task is one of {', '.join(_TASKS)}, nulls one of {', '.join(_NULLS)}; got {task!r}, {nulls!r}."
        )
    if prediction is None and probability is None:
        prediction, probability = (name if name in types else None for name in ("prediction", "probability"))
        probability = None if task == "regression" else probability
    if prediction is None and probability is None:
        raise ConfigurationError(
            f"There is nothing to compare `{label}` with: the table has no columns `prediction` and `probability`. Name one: "
            f"prediction=... or probability=..., of {', '.join(types)}."
        )
    kinds = {n: _type(types, n) for n in (label, prediction, probability, weight) if n is not None}
    kind = _kind(task, label, prediction, probability, kinds)
    probability = None if kind == "regression" else probability
    if kind == "regression" and prediction is None:
        raise ConfigurationError("A regression has predictions, not probabilities. Name the column: prediction=...")
    _check_numbers(kinds, weight, probability)
    _check_values(kind, label, prediction, kinds)
    names = None if classes is None else tuple(classes)
    text = is_string(kinds[label])
    keys = (by,) if isinstance(by, str) else tuple(by or ())
    for key in keys:
        if not can_be_key(_type(types, key)):
            raise SignatureError(f"Column `{key}` of type {types[key]} cannot be a key. Take a number, text, date or time.")
    return Plan(
        kind=kind,
        label=label,
        prediction=prediction,
        probability=probability,
        weight=weight,
        by=keys,
        key_types=tuple(_type(types, key) for key in keys),
        text=text,
        classes=_classes(kind, names, text, label),
        positive=_positive(kind, positive, names, text, label),
        top_k=_top(top_k),
        bins=_in(bins, 1, 10_000, "bins"),
        quantiles=_shares(quantiles),
        refuse=nulls == "raise",
    )


def _type(types: dict[str, pa.DataType | None], name: str) -> pa.DataType:
    kind = types.get(name)
    if kind is None:
        state = "has a type that is not understood" if name in types else "is not there"
        raise SignatureError(f"Column `{name}` {state}. The table has {', '.join(f'{n}: {t}' for n, t in types.items())}.")
    return plain_type(kind)


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pat.is_integer(kind) or pat.is_boolean(kind))


def _is_class(kind: pa.DataType) -> bool:
    return _is_whole(kind) or is_string(kind)


def _kind(task: str, label: str, prediction: str | None, probability: str | None, kinds: dict[str, pa.DataType]) -> Kind:
    if task == "auto":
        task = _guessed(label, prediction, probability, kinds)
    if task == "regression":
        return "regression"
    if probability is None:
        return "binary" if task == "binary" else "open"
    return "binary" if not (is_list(kinds[probability]) or is_vector(kinds[probability])) else "vector"


def _guessed(label: str, prediction: str | None, probability: str | None, kinds: dict[str, pa.DataType]) -> str:
    if probability is not None:
        return "classification"
    found = [kinds[label], kinds[prediction or ""]]
    if all(_is_class(k) for k in found):
        return "classification"
    if all(pat.is_floating(k) for k in found):
        return "regression"
    raise ConfigurationError(
        f"`{label}` is {found[0]} and `{prediction}` is {found[1]}: whole numbers and floats may be classes or quantities. "
        "Say task='classification' or task='regression'."
    )


def _check_numbers(kinds: dict[str, pa.DataType], weight: str | None, probability: str | None) -> None:
    for role, name in (("weight", weight), ("probability", probability)):
        if name is None:
            continue
        kind = kinds[name]
        inner = plain_type(kind.value_type) if is_list(kind) and role == "probability" else kind
        vector = role == "probability" and is_vector(kind)
        if not (vector or pat.is_floating(inner) or pat.is_integer(inner)):
            also = ", an array of numbers or a vector" if role == "probability" else ""
            raise SignatureError(f"A {role} is a number{also}; column `{name}` is {kind}. Cast it, e.g. to double.")


def _check_values(kind: Kind, label: str, prediction: str | None, kinds: dict[str, pa.DataType]) -> None:
    for name in (label, prediction):
        if name is None:
            continue
        found = kinds[name]
        if kind == "regression" and (is_string(found) or not (pat.is_floating(found) or _is_whole(found))):
            raise SignatureError(f"A regression is of numbers; column `{name}` is {found}. Cast it to double.")
        if not (_is_class(found) or pat.is_floating(found)):
            raise SignatureError(f"A class is a number or text; column `{name}` is {found}. Cast it.")
    if kind != "regression" and prediction is not None and is_string(kinds[label]) != is_string(kinds[prediction]):
        raise SignatureError(
            f"`{label}` is {kinds[label]} and `{prediction}` is {kinds[prediction]}, so no prediction can be right. Make both "
            "text or both numbers."
        )


def _classes(kind: Kind, names: tuple[Any, ...] | None, text: bool, label: str) -> tuple[Any, ...] | None:
    if kind != "vector":
        return None
    if names is None and text:
        raise ConfigurationError(
            f"`{label}` is text, and the probabilities have no names. Tell them in their order: classes=['cat', 'dog', ...]."
        )
    if names is not None:
        wrong = [n for n in names if isinstance(n, str) != text]
        if wrong or len(set(names)) < len(names) or not names:
            what = "text" if text else "whole numbers"
            raise ConfigurationError(f"classes= wants different names of the kind of `{label}`, {what}; got {list(names)!r}.")
    return names


def _positive(kind: Kind, positive: Any, names: tuple[Any, ...] | None, text: bool, label: str) -> Any:
    if positive is None:
        if names is not None and len(names) == 2:
            return names[1]
        if kind == "binary" and text:
            raise ConfigurationError(f"`{label}` is text, so say which class the evaluation is about: positive='yes'.")
        return 1
    if kind in ("binary", "vector") and isinstance(positive, str) != text:
        raise ConfigurationError(f"positive={positive!r} is not of the kind of `{label}`, {'text' if text else 'a number'}.")
    return positive


def _top(top_k: Sequence[int]) -> tuple[int, ...]:
    given = (top_k,) if isinstance(top_k, int) else tuple(top_k)
    return tuple(dict.fromkeys(_in(k, 1, 1 << 31, "top_k") for k in given))


def _in(value: Any, least: int, most: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{name} is a whole number from {least} to {most}; got {value!r}.")
    return value


def _shares(quantiles: Sequence[float]) -> tuple[float, ...]:
    if not all(0 <= q <= 1 for q in quantiles):
        raise ConfigurationError(f"quantiles are shares from 0 to 1; got {list(quantiles)!r}.")
    return tuple(dict.fromkeys(float(q) for q in quantiles))
