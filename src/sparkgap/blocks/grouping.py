"""What a grouped table is a grouping of: its table and its key columns, of Spark, pandas, Arrow or polars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparkgap._errors import ConfigurationError

_AGGREGATE = "org.apache.spark.sql.catalyst.plans.logical.Aggregate"
_ATTRIBUTE = "org.apache.spark.sql.catalyst.expressions.AttributeReference"


@dataclass(frozen=True)
class Grouping:
    """A table and the columns that it is grouped by.

    Args:
        data: the table.
        keys: names of columns.
        drop_nulls: whether rows with null keys are no group, as pandas has it by default.
    """

    data: Any
    keys: tuple[str, ...]
    drop_nulls: bool = False


def grouping_of(grouped: Any) -> Grouping:
    """Look at a grouped table.

    Raises:
        ConfigurationError: it is none, or it is grouped by something else than columns.
    """
    home = type(grouped).__module__
    if home.startswith("pyspark.sql"):
        data = grouped._df
        names = _connect(grouped) if ".connect" in home else _classic(grouped)
        found = Grouping(data, tuple(_column(n, list(data.columns)) for n in names))
    elif home.startswith("pandas.") and hasattr(grouped, "obj"):
        found = Grouping(grouped.obj, _names(grouped.keys), bool(grouped.dropna))
    elif home.startswith("pyarrow.") and hasattr(grouped, "keys"):
        found = Grouping(grouped._table, _names(grouped.keys))
    elif home.startswith("polars.") and hasattr(grouped, "df"):
        by = [n for key in grouped.by for n in (key if isinstance(key, list | tuple) else [key])]
        found = Grouping(grouped.df, _names([*by, *getattr(grouped, "named_by", {}).items()]))
    else:
        raise ConfigurationError(
            f"aggregate wants a grouped table, e.g. df.groupBy('key'); got a {home}.{type(grouped).__qualname__}."
        )
    if not found.keys or len(set(found.keys)) < len(found.keys):
        raise ConfigurationError(
            f"aggregate wants one or more different key columns; got {list(found.keys)}. For a table as a "
            "whole: gap.reduce_blocks."
        )
    return found


def _names(keys: Any) -> tuple[str, ...]:
    names = (keys,) if isinstance(keys, str) else tuple(keys) if isinstance(keys, list | tuple) else (keys,)
    if not all(isinstance(n, str) for n in names):
        raise _no_columns(f"{keys!r}")
    return names


def _classic(grouped: Any) -> list[str]:
    """Read the keys from the plan of a count, which runs nothing."""
    counted = grouped.count()
    plan = counted._jdf.queryExecution().analyzed()
    if plan.getClass().getName() != _AGGREGATE or not plan.child().sameResult(grouped._df._jdf.queryExecution().analyzed()):
        raise _no_columns(repr(grouped))
    expressions = plan.groupingExpressions()
    keys = [expressions.apply(i) for i in range(expressions.size())]
    if any(k.getClass().getName() != _ATTRIBUTE for k in keys):
        raise _no_columns(repr(grouped))
    names = [str(k.name()) for k in keys]
    if names != counted.columns[: len(names)]:  # under other names
        raise _no_columns(repr(grouped))
    return names


def _connect(grouped: Any) -> list[str]:
    expressions = [column._expr for column in grouped._grouping_cols]
    if grouped._group_type != "groupby" or any(type(e).__name__ != "ColumnReference" for e in expressions):
        raise _no_columns(repr(grouped))
    return [str(e._unparsed_identifier) for e in expressions]


def _column(name: str, columns: list[str]) -> str:
    """Find the column that Spark means by a name, which may be quoted and is compared without case."""
    if name in columns:
        return name
    bare = name[1:-1].replace("``", "`") if name.startswith("`") and name.endswith("`") else name
    found = [c for c in columns if c.lower() == bare.lower()]
    if len(found) != 1:
        raise _no_columns(name)
    return found[0]


def _no_columns(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"aggregate works on groups by columns, so that it can aggregate before the shuffle; got {what}. Add "
        "what you group by as a column first: df.withColumn('key', ...).groupBy('key')."
    )
