"""The embedded pattern: a model over the rows of a DataFrame. The driver plans, executors run the plan."""
