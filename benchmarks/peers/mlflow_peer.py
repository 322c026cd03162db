"""MLflow: `pyfunc.spark_udf` over a Python model, on a Spark session of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from benchmarks.common import CORES, ROOT
from benchmarks.dense import BATCH, WIDTH, scorer
from benchmarks.peers.serve import serve


class Network(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The network behind MLflow's interface: a pandas frame in, a matrix out."""

    def load_context(self, context: Any) -> None:
        """Load the network."""
        self._score = scorer()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> np.ndarray:
        """Score one Arrow batch, in slices of the batch size."""
        x = np.vstack(model_input.iloc[:, 0]).astype(np.float32, copy=False).reshape(-1, WIDTH)
        parts = [self._score(x[start : start + BATCH]) for start in range(0, len(x), BATCH)]
        return np.concatenate(parts)


def main() -> None:
    """Serve rounds over one folder."""
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.driver.memory", "4g")
    spark = builder.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(f"{folder}/model", python_model=Network())
        udf = mlflow.pyfunc.spark_udf(spark, f"{folder}/model", result_type="array<float>", env_manager="local")
        table = spark.read.parquet(sys.argv[1])
        frame = table.select("key", udf("x").alias("y"))
        serve(lambda: frame.write.format("noop").mode("overwrite").save(), frame.toArrow)


if __name__ == "__main__":
    main()
