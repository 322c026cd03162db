"""Column expressions on PySpark 4.0, which has pandas functions only: convert on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql.types import DataType


def over_pandas(body: Callable[[Iterator[Any]], Iterator[pa.Array]], returns: DataType) -> Any:
    """Return a body over Arrow columns as an iterator pandas function."""
    import pandas as pd
    from pyspark.sql.functions import pandas_udf
    from pyspark.sql.types import StructType

    several = isinstance(returns, StructType)

    def score(columns: Iterator[Any]) -> Iterator[Any]:
        for array in body(_to_arrow(item) for item in columns):
            yield _to_pandas(array, several)

    given = Iterator[pd.DataFrame] if several else Iterator[pd.Series]
    score.__annotations__ = {"columns": Iterator[tuple[pd.Series, ...]], "return": given}
    return pandas_udf(score, returns)


def _to_arrow(item: Any) -> tuple[pa.Array, ...]:
    series = item if isinstance(item, tuple) else (item,)
    return tuple(pa.Array.from_pandas(s) for s in series)


def _to_pandas(array: pa.Array, several: bool) -> Any:
    if several:
        return pa.RecordBatch.from_struct_array(array).to_pandas()
    return array.to_pandas()
