"""The work of `benchmarks.dense` done by other libraries, each in an environment and a process of its own."""
