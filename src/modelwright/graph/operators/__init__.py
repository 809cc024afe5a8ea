"""Which dims each operator makes equal: one rule for each kind of operator, by what it computes."""

from __future__ import annotations

from functools import cache

import torch

from modelwright.graph.operators.backward import BACKWARD
from modelwright.graph.operators.elementwise import ELEMENTWISE, elementwise
from modelwright.graph.operators.indexing import INDEXING
from modelwright.graph.operators.norms import NORMS
from modelwright.graph.operators.products import PRODUCTS
from modelwright.graph.operators.reductions import REDUCTIONS
from modelwright.graph.operators.rule import Rule
from modelwright.graph.operators.shapes import SHAPES
from modelwright.graph.operators.windows import WINDOWS

RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **SHAPES,
    **PRODUCTS,
    **REDUCTIONS,
    **NORMS,
    **INDEXING,
    **WINDOWS,
    **BACKWARD,
}


@cache
def rule_of(name: str) -> Rule | None:
    """The rule for the operator ``name``; torch itself says which operators go number by number."""
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    own = namespace in ("aten", "modelwright")
    known = RULES.get(packet) or RULES.get(packet.removesuffix("_")) if own else RULES.get(f"{namespace}.{packet}")
    if known is not None or not overload:
        return known
    found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    return elementwise if found is not None and torch.Tag.pointwise in found.tags else None
