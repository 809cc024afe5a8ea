"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable

from modelwright.graph.operators.context import Context

Rule = Callable[[Context], None]
