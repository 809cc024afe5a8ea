"""The command ``modelwright``, a file for each group of verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from modelwright.cli.main import app, main

__all__ = ["app", "main"]
