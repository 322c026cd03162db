"""Search for hyper-parameters with Optuna, its trials as tasks on Spark: `gap.search`."""
