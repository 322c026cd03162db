"""Evaluation: what a model's predictions are worth, in one pass over a table."""
