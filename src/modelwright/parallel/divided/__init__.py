"""Divided: ordinary code computes on tensors of which every rank holds a piece only."""

from modelwright.parallel.divided import rules
from modelwright.parallel.divided.axes import Axes, DryAxes, Sequence
from modelwright.parallel.divided.divided import Divided
from modelwright.parallel.divided.division import Division, Factor, dim_of, divided_along, whole
from modelwright.parallel.divided.wrapping import dividing, entered, full, piece

__all__ = [
    "Axes",
    "Divided",
    "Division",
    "DryAxes",
    "Factor",
    "Sequence",
    "dim_of",
    "divided_along",
    "dividing",
    "entered",
    "full",
    "piece",
    "rules",
    "whole",
]
