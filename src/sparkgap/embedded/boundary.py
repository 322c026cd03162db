"""Which way the data takes to the model: rows through Spark, or files read by the executors themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkgap._errors import ConfigurationError
from sparkgap.data.source import Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Decision:
    """The boundary that was chosen, and why.

    Args:
        boundary: ``"rows"`` or ``"files"``.
        reason: in plain words.
        frame: the DataFrame, where there is one.
        source: the source, for files only.
    """

    boundary: str
    reason: str
    frame: DataFrame | None = None
    source: Source | None = None


def decide(data: DataFrame | Source, wanted: str, spark: SparkSession) -> Decision:
    """Choose the boundary. Driver side; looks at the plan and the footers of files, runs no job.

    Raises:
        ConfigurationError: `files` was asked for and is not possible; says why.
    """
    if isinstance(data, Source):
        if wanted == "rows":
            return Decision("rows", "asked for; Spark reads the files", frame=data.to_df(spark))
        return Decision("files", f"{data.name} are read by the executors' Python, Spark only schedules", source=data)
    if wanted == "rows":
        return Decision("rows", "asked for", frame=data)
    from sparkgap.data.spark_scan import Fallback, recognise

    found = recognise(data)
    if not isinstance(found, Fallback):
        return Decision("files", "the DataFrame is a plain scan of Parquet files, with the same answer", data, found)
    if wanted == "files":
        raise ConfigurationError(
            f"boundary='files' is not possible for this DataFrame: {found.reason}. Use boundary='rows', or pass "
            "gap.files(path) instead of the DataFrame."
        )
    return Decision("rows", f"files is not possible: {found.reason}", frame=data)
