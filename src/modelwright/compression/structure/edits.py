"""The primitive edits that remove units: shorter tensors, and the numbers that the code reads about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from modelwright.compression.structure.numbers import Attribute
from modelwright.compression.structure.trees import kept_of
from modelwright.graph import Graph
from modelwright.models.change import Edit, Keep, SetNumber, runs_of

Masks = Mapping[int, NDArray[np.bool_]]


def shorten(graph: Graph, kept: Masks) -> Iterator[Edit]:
    """Of each parameter and buffer what stays, one edit for each dim that becomes shorter."""
    dimensions = graph.dimensions
    for value in graph.values:
        if value.kind not in ("parameter", "buffer") or value.producer is not None:
            continue
        for dim, leaves in enumerate(dimensions.leaves(value.id)):
            if not kept.keys().isdisjoint(leaves):
                places = np.flatnonzero(kept_of(dimensions.tree(value.id, dim), kept))
                yield Keep(tensor=value.name, dim=dim, runs=runs_of(places.tolist()))


def renumber(model: nn.Module, values: Mapping[Attribute, int]) -> Iterator[Edit]:
    """The numbers that change, of tuples and lists all at once."""
    several: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for attribute, value in values.items():
        if attribute.index < 0:
            yield SetNumber(module=attribute.module, attribute=attribute.path, value=value)
        else:
            several[attribute.module, attribute.path][attribute.index] = value
    for (module, path), changed in several.items():
        held: Any = model.get_submodule(module)
        for part in path.split("."):
            held = getattr(held, part)
        now = tuple(changed.get(place, each) for place, each in enumerate(held))
        yield SetNumber(module=module, attribute=path, value=now)
