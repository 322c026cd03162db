"""`data=` of `gap.run`: values that each node gets once, handed to the function as keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.scheduled import placed
from sparkgap.scheduled.placed import PlacedRef

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class WithData:
    """A function that is given its item and the placed values; they are opened once a process.

    Args:
        fn: the user's function.
        refs: placed values by parameter.
    """

    def __init__(self, fn: Callable[..., Any], refs: Mapping[str, PlacedRef]) -> None:
        self._fn = fn
        self._refs = dict(refs)
        self._opened: dict[str, Any] | None = None

    def __call__(self, item: Any) -> Any:
        """Call the function with an item."""
        if self._opened is None:
            self._opened = {name: placed.fetch(ref) for name, ref in self._refs.items()}
        return self._fn(item, **self._opened)


def refs_of(
    spark: SparkSession, fn: Callable[..., Any], data: Mapping[str, Any], *, far: bool = False
) -> dict[str, PlacedRef]:
    """Place values where executors find them. Driver side.

    Args:
        spark: the session.
        fn: the function that gets them.
        data: the values by parameter.
        far: whether executors certainly do not see this machine's files.

    Raises:
        ConfigurationError: a value is of a kind that cannot be placed, or the function does not take it.
    """
    check_names(fn, data)
    refs = {}
    for name, value in data.items():
        try:
            refs[name] = put(spark, _table(value), far=far)
        except ConfigurationError as error:
            raise ConfigurationError(f"data[{name!r}]: {error}") from error
    return refs


def put(spark: SparkSession, value: Any, *, far: bool = False) -> PlacedRef:
    """Place one value where executors find it; `far`: where they certainly do not see this machine's files. Driver side.

    Raises:
        ConfigurationError: it is of a kind that cannot be placed.
    """
    ref = placed.place(value)
    if far or not _spark.shares_files_with_executors(spark):
        ref = replace(ref, artifact=_spark.send_file(spark, placed.archive(ref)))
    return ref


def _table(value: Any) -> Any:
    """Return the rows of a Spark DataFrame as an Arrow table; other values as they are."""
    return value.toArrow() if hasattr(value, "toArrow") and hasattr(value, "sparkSession") else value


def check_names(fn: Callable[..., Any], data: Mapping[str, Any]) -> None:
    """Refuse data that a function would not take.

    Raises:
        ConfigurationError: it has no parameter of that name.
    """
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # functions of C tell nothing
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    missing = [name for name in data if name not in list(parameters)[1:]]
    if missing:
        raise ConfigurationError(
            f"data= has {', '.join(missing)}, which the function does not take: its parameters are {', '.join(parameters)}. "
            "The first one is the item, the others are named as in data=."
        )
