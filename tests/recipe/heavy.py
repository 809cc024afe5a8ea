"""A technique whose optional part is not installed."""

from __future__ import annotations

from modelwright.base.errors import MissingExtra

raise MissingExtra("text", "the solver 'heavy'")
