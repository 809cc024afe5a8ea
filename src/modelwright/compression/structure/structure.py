"""All units of a model, and the change that removes some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.structure.anatomy import Anatomy
from modelwright.compression.structure.solving import Conflict
from modelwright.compression.structure.trials import Trials
from modelwright.compression.structure.units import Frozen, UnitClass
from modelwright.graph import Graph
from modelwright.graph.tracing import Forward
from modelwright.models.change import Change

Keep = Mapping[int, Iterable[int]]
"""By number of a class, the units that stay, in any order; of classes not named all stay."""


class Units:
    """The units of a model: what can be removed so that it computes the same as if that had never been there.

    Found from what the model does to an example, never from what things are called: dims that belong together are the
    graph's classes (:mod:`modelwright.graph`); the numbers that the code reads, such as how many heads there are, are
    found by running it once with numbers that remember where they come from. All of it is then tried on the meta
    device: a model that lost some of all its units must call the same operators on dims of the predicted lengths.
    What fails is frozen.

    A criterion of pruning gets this object, and gives by number of a class one score for each unit, ``[size]``: what
    has the lowest goes first. :attr:`UnitClass.places` tells it where in which parameters a unit lies, and
    :meth:`Place.by_unit` reads a weight, a gradient, or anything of the same shape, unit by unit.

    Args:
        model: any module, on any device, also on meta; it is not altered.
        example_inputs: a dict of arguments by name, a tuple of arguments, or one argument; only shapes matter.
        forward: of ``(model, example_inputs)``: what the caller reads of the outputs, such as ``logits``: its shape
            stays. By default all that the model returns.

    Attributes:
        classes: what can be removed.
        frozen: what cannot, with the reasons.
        graph: of the forward pass.

    Raises:
        ModelwrightError: the model cannot be traced.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, *, forward: Forward | None = None) -> None:
        anatomy = Anatomy(model, example_inputs, forward)
        self._trials = Trials(model, example_inputs, anatomy, forward)
        self._trials.settle()
        self.graph: Graph = anatomy.graph
        self.classes: tuple[UnitClass, ...] = tuple(anatomy.unit_class(leaf) for leaf in anatomy.free)
        self.frozen: tuple[Frozen, ...] = tuple(
            anatomy.frozen(leaf) for leaf in anatomy.members if leaf in anatomy.ties.frozen
        )

    def __getitem__(self, number: int) -> UnitClass:
        return self._by_number[number]

    def change(self, keep: Keep, kind: str = "pruned", facts: Mapping[str, Any] | None = None) -> Change:
        """The change that leaves only these units, tried on the meta device first.

        Args:
            keep: the units that stay.
            kind: of the change.
            facts: about it, JSON-ready.

        Raises:
            ModelwrightError: there is no such class or unit, none would stay, classes that belong together would keep
                unequally many, or the model would do something else.
        """
        kept = {number: self._mask(number, stay) for number, stay in keep.items()}
        self._check_together({number: int(mask.sum()) for number, mask in kept.items()})
        reason, operator = "", 0
        try:
            change, difference = self._trials.attempt({leaf: mask for leaf, mask in kept.items() if not mask.all()})
            if difference is not None:
                reason, operator = difference.reason, difference.operator
        except Conflict as conflict:
            reason = conflict.reason
        if reason:
            raise ModelwrightError(
                f"with these units removed the model does something else: {reason}",
                where=self.graph.operators[operator].module,
                remedy="remove units of fewer classes at once",
            )
        return Change(kind=kind, edits=change.edits, facts=facts or {})

    @cached_property
    def _by_number(self) -> dict[int, UnitClass]:
        return {each.number: each for each in self.classes}

    def _mask(self, number: int, stay: Iterable[int]) -> NDArray[np.bool_]:
        if number not in self._by_number:
            raise ModelwrightError(
                f"there is no class {number} of units that can be removed",
                remedy="take the numbers of Units.classes; Units.frozen says why others stay",
            )
        size, places = self._by_number[number].size, sorted(set(stay))
        if not places or places[0] < 0 or places[-1] >= size:
            raise ModelwrightError(
                f"of the {size} {self._by_number[number].name} {places} cannot be what stays",
                remedy=f"keep at least one, each between 0 and {size - 1}",
            )
        mask = np.zeros(size, dtype=np.bool_)
        mask[places] = True
        return mask

    def _check_together(self, counts: Mapping[int, int]) -> None:
        for each in self.classes:
            first = self._by_number[each.together]
            one, other = (counts.get(some.number, some.size) for some in (each, first))
            if one != other:
                raise ModelwrightError(
                    f"of the {each.name} {one} would stay, and of the {first.name} {other}",
                    remedy="keep equally many: one number of the model's code is the size of both",
                )
