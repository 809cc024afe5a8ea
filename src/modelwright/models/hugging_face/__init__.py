"""Architectures of `transformers`, from their configurations and local folders."""
