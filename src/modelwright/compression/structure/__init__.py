"""Structure: which units a model has, where they lie, and how it goes on without some of them."""

from __future__ import annotations

from modelwright.compression.structure.structure import Keep, Units
from modelwright.compression.structure.units import KINDS, Frozen, Place, UnitClass

__all__ = ["KINDS", "Frozen", "Keep", "Place", "UnitClass", "Units"]
