"""What a model does, recorded without running it on numbers: operators, shapes, dims that belong together."""

from __future__ import annotations

from modelwright.graph.dimensions import DimensionClass, Dimensions, Member, Tree
from modelwright.graph.graph import Graph
from modelwright.graph.records import Break, Operator, Ref, Unknown, Value
from modelwright.graph.tracing import trace

__all__ = [
    "Break",
    "DimensionClass",
    "Dimensions",
    "Graph",
    "Member",
    "Operator",
    "Ref",
    "Tree",
    "Unknown",
    "Value",
    "trace",
]
