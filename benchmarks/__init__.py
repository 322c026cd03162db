"""Benchmarks: one script a claim; each prints ratios against peers and the limit, measured in one run."""
