"""Data that stays outside Spark until a task reads it: Parquet files, images, storage."""
