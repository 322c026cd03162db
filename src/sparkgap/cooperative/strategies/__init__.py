"""Strategies: how the ranks of a gang make one model out of what each of them learns."""
