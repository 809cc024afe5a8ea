"""Rows of named columns: CSV, JSON Lines, Parquet, `datasets`, TFRecord."""
