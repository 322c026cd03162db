"""Many independent pieces of work on a Spark cluster: `gap.run`."""
