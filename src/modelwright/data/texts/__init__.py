"""Texts cut into windows of tokens, for language models."""
