"""Forecast jobs in 20 industries of the USA a month ahead: a model per industry, trained and applied by Spark.

pip install 'sparkgap[java,sklearn]' vega_datasets
python examples/forecast_per_series.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import local_data

import sparkgap as gap

LAGS = 6
SPLIT = "2013-01-01"  # seven years to learn from, three to forecast
TOTALS = ["nonfarm", "private", "nonfarm_change"]


def series(spark: SparkSession) -> DataFrame:
    """A row for each industry and month: jobs in thousands, and how they changed in the months before."""
    table = local_data.us_employment().drop(columns=TOTALS)
    table["month"] = table["month"].astype(str)
    jobs = spark.createDataFrame(table.melt("month", var_name="industry", value_name="jobs"))
    window = Window.partitionBy("industry").orderBy("month")
    changes = jobs.withColumn("before", F.lag("jobs").over(window)).withColumn("change", F.expr("jobs - before"))
    lags = F.array(*(F.lag("change", n).over(window) for n in range(1, LAGS + 1)))
    return changes.withColumn("lags", lags).where(F.size(F.array_compact("lags")) == LAGS)


def fit(industry: str, months: pa.Table) -> Any:
    """Train the model of one industry; runs on an executor, in a process of its own."""
    lags = np.stack(months["lags"].to_numpy())
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 20))).fit(lags, months["change"].to_numpy())


def main() -> None:
    spark = gap.session("local[2]")
    months = series(spark).cache()

    run = gap.run_grouped(months.where(f"month < '{SPLIT}'"), "industry", fit, columns=["lags", "change"])
    models = run.models()
    print(f"{len(models)} models trained")

    # each row goes to the model of its industry; nothing is shuffled
    later = months.where(f"month >= '{SPLIT}'")
    forecast = gap.transform(later, models, inputs=["lags"], outputs=["expected"], keep=["industry", "change"])
    errors = forecast.groupBy("industry").agg(
        F.avg(F.abs(F.col("change") - F.col("expected"))).alias("model"),
        F.avg(F.abs("change")).alias("naive"),  # of the forecast that nothing changes
    )
    found = errors.withColumn("ratio", F.expr("model / naive")).orderBy("ratio").toPandas()
    print(found.to_string(index=False, float_format="{:.2f}".format))
    better = int((found["ratio"] < 1).sum())
    print(f"better than the naive forecast in {better} of {len(found)} industries")
    print(f"mean absolute error: {found['ratio'].mean():.2f} of the naive one")
    spark.stop()


if __name__ == "__main__":
    main()
