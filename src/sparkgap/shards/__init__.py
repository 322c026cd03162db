"""Shards: a table written once as Arrow files, and read many times as ndarrays, in an order that a seed gives."""
