"""Tables of this process: pandas, Arrow and polars, read without being changed, answered in their own kind."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError

KINDS = ("pandas", "pyarrow", "polars")


def kind_of(data: Any) -> str | None:
    """Return which kind of table this is; None where it is none of this process."""
    names = {f"{c.__module__.partition('.')[0]}.{c.__qualname__}" for c in type(data).__mro__}
    for kind, known in (
        ("pandas", {"pandas.DataFrame"}),
        ("pyarrow", {"pyarrow.Table", "pyarrow.RecordBatch"}),
        ("polars", {"polars.DataFrame"}),
    ):
        if names & known:
            return kind
    return None


@dataclass(frozen=True)
class Local:
    """A table and its columns as Arrow.

    Args:
        given: the user's table.
        kind: one of `KINDS`.
        columns: name -> values, None where Arrow has no type for them.
        rows: number of rows.
    """

    given: Any
    kind: str
    columns: Mapping[str, pa.ChunkedArray | None]
    rows: int

    @staticmethod
    def of(data: Any) -> Local:
        """Read a table; numbers are not copied.

        Raises:
            ConfigurationError: two columns have the same name.
        """
        kind = kind_of(data)
        if kind == "pandas":
            names, columns = list(data.columns), [_from_pandas(data.iloc[:, i]) for i in range(data.shape[1])]
        else:
            table = data.to_arrow() if kind == "polars" else data
            names, columns = table.schema.names, [_chunked(c) for c in table.columns]
        names = [str(n) for n in names]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigurationError(f"The table has more than one column named {', '.join(twice)}. Rename or drop one.")
        return Local(data, str(kind), dict(zip(names, columns, strict=True)), len(data))

    @property
    def types(self) -> dict[str, pa.DataType | None]:
        """Column -> Arrow type, None where it has none."""
        return {name: None if column is None else column.type for name, column in self.columns.items()}

    def batches(self, names: Sequence[str]) -> list[pa.RecordBatch]:
        """Return some columns as record batches."""
        if not names or not self.rows:
            return []
        table = pa.table([self.columns[n] for n in names], names=[f"c{i}" for i in range(len(names))])
        batches: list[pa.RecordBatch] = table.to_batches()
        return batches

    def take(self, rows: np.ndarray) -> Any:
        """Return these rows of the user's table, as a new one of its kind."""
        whole = len(rows) == self.rows and bool((rows == np.arange(self.rows)).all())
        if self.kind == "pandas":
            return self.given.copy(deep=False) if whole else self.given.iloc[rows]
        if self.kind == "polars":
            return self.given.clone() if whole else self.given[rows.tolist()]
        return _as_table(self.given) if whole else _as_table(self.given).take(pa.array(rows))

    def beside(self, rows: np.ndarray, added: pa.Table) -> Any:
        """Return these rows of the user's table with columns added."""
        kept = self.take(rows)
        if self.kind == "pandas":
            return kept.assign(**{n: _to_pandas(added.column(n), kept.index) for n in added.column_names})
        if self.kind == "polars":
            return kept.hstack(_polars().from_arrow(added))
        for name in added.column_names:
            kept = kept.append_column(name, added.column(name))
        return kept

    def answer(self, table: pa.Table) -> Any:
        """Return an Arrow table as one of the user's kind."""
        if self.kind == "pandas":
            import pandas as pd

            index = pd.RangeIndex(table.num_rows)
            return pd.DataFrame({n: _to_pandas(table.column(n), index) for n in table.column_names}, index=index)
        return _polars().from_arrow(table) if self.kind == "polars" else table


def _polars() -> Any:
    return importlib.import_module("polars")  # which made the user's table


def _as_table(data: Any) -> pa.Table:
    return pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data


def _chunked(column: Any) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _from_pandas(series: Any) -> pa.ChunkedArray | None:
    # NaN in a column of floats is a value, as it is in Spark; None and NaN among objects are nulls.
    plain = getattr(series.dtype, "kind", "O") in "biuf" and isinstance(series.dtype, np.dtype)
    values = series.to_numpy() if plain else series
    for attempt in (lambda: values, lambda: [_listed(v) for v in series]):
        try:
            return _chunked(pa.array(attempt(), from_pandas=not plain))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError):
            continue  # tensors of rank 2 as nested lists; else no column for a program
    return None


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _to_pandas(column: pa.ChunkedArray, index: Any) -> Any:
    import pandas as pd

    series = column.to_pandas()
    return pd.Series(series.to_numpy(), index=index, dtype=series.dtype)
