"""Rows in and out of files: prompts and samples read, results described and written."""
