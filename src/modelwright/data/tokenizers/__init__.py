"""Bytes to tokens and back: one file each."""
