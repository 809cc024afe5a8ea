"""Try on the meta device what would happen if entries went, and freeze those whose removal breaks the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.structure.anatomy import Anatomy
from modelwright.compression.structure.checking import Difference, Prediction
from modelwright.compression.structure.edits import Masks, renumber, shorten
from modelwright.compression.structure.labels import Labels
from modelwright.compression.structure.solving import Conflict
from modelwright.compression.structure.watching import Watches
from modelwright.graph import trace
from modelwright.graph.meta_copy import copy_to_meta
from modelwright.graph.tracing import Forward
from modelwright.models.change import Change


class Trials:
    """Changes of one model, each tried on a copy without memory.

    Args:
        model: the original.
        example_inputs: for it.
        anatomy: of it.
        forward: as for the anatomy.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, anatomy: Anatomy, forward: Forward | None = None) -> None:
        self._model = model
        self._example = example_inputs
        self._anatomy = anatomy
        self._forward = forward
        self._labels = Labels(model, anatomy.graph, anatomy.numbers.read)

    def attempt(self, kept: Masks) -> tuple[Change, Difference | None]:
        """The change that leaves only what is kept, and what the model then does differently, if anything.

        Raises:
            Conflict: no value of the code's numbers fits.
        """
        sizes = {leaf: int(mask.sum()) for leaf, mask in kept.items()}
        values = {**self._labels.values(sizes), **self._anatomy.numbers.values(sizes)}
        edits = (*shorten(self._anatomy.graph, kept), *renumber(self._model, values))
        change = Change(kind="pruned", edits=edits)
        return change, self._difference(change, sizes)

    def settle(self) -> None:
        """Remove from all free classes at once; as long as that fails, freeze who makes it fail."""
        ties = self._anatomy.ties
        self._settle_numbers()
        while free := self._anatomy.free:
            failure = self._failure(free)
            if failure is None:
                return
            if isinstance(failure, Conflict):
                self._freeze(dict.fromkeys(failure.leaves, failure.reason))
            else:
                self._freeze(self._culprits(free, failure))
            ties.settle()

    def _settle_numbers(self) -> None:
        """Ask of each class alone whether the code's numbers can follow it."""
        ties, numbers, left = self._anatomy.ties, self._anatomy.numbers, self._anatomy.free
        while left:
            group = ties.group(left[0])
            together = [leaf for leaf in self._anatomy.free if ties.group(leaf) == group]
            try:
                numbers.values({leaf: int(mask.sum()) for leaf, mask in self._smaller(together).items()})
            except Conflict as conflict:
                if not self._tie(conflict.leaves):
                    self._freeze(dict.fromkeys(together, conflict.reason))
                    ties.settle()
                left = [leaf for leaf in left if leaf not in ties.frozen]
            else:
                left = [leaf for leaf in left if leaf not in together]

    def _tie(self, leaves: frozenset[int]) -> bool:
        """Alike classes of several layers, whose number is one, keep equally many from now on; whether that is new."""
        ties, new = self._anatomy.ties, False
        for leaf in leaves & set(self._anatomy.free):
            for other in self._anatomy.alike(leaf):
                if other in leaves and ties.group(other) != ties.group(leaf):
                    ties.tie(leaf, other)
                    new = True
        return new

    def _difference(self, change: Change, sizes: dict[int, int]) -> Difference | None:
        changed = copy_to_meta(self._model)
        change.apply(changed)
        watches, failure = Watches(), ""
        try:
            trace(changed, self._example, forward=self._forward, watch=watches)
        except ModelwrightError as error:
            failure = error.what.removeprefix("the model cannot be traced: ")
        if len(watches) <= self._anatomy.attempt:
            return Difference(operator=0, reason="the code goes another way")
        after = watches[self._anatomy.attempt].recorder
        return Prediction(self._anatomy.graph, sizes).difference(self._anatomy.recorder, after, failure)

    def _failure(self, leaves: Iterable[int]) -> Difference | Conflict | None:
        try:
            return self.attempt(self._smaller(leaves))[1]
        except Conflict as conflict:
            return conflict

    def _smaller(self, leaves: Iterable[int]) -> Masks:
        """Some entries of each class go, of different ones different shares."""
        counts: dict[int, int] = {}
        masks = {}
        for leaf in leaves:
            size = self._anatomy.sizes[leaf]
            default = max(1, size - 1 - len(counts) % max(1, size // 2))
            count = counts.setdefault(self._anatomy.ties.group(leaf), default)
            masks[leaf] = np.arange(size) >= size - count
        return masks

    def _culprits(self, free: list[int], difference: Difference) -> dict[int, str]:
        """Who fails alone, of those that the operator where it fails is about; if none does, all of these."""
        group = self._anatomy.ties.group
        near = self._anatomy.near(difference.operator) & set(free) or set(free)
        groups = {leaf: [other for other in free if group(other) == leaf] for leaf in {group(each) for each in near}}
        found: dict[int, str] = {}
        for together in groups.values():
            if (alone := self._failure(together)) is not None:
                found |= dict.fromkeys(together, alone.reason)
        return found or {leaf: difference.reason for together in groups.values() for leaf in together}

    def _freeze(self, reasons: dict[int, str]) -> None:
        for leaf, reason in reasons.items():
            for other in self._anatomy.alike(leaf):
                self._anatomy.ties.freeze(other, reason)
            self._anatomy.ties.freeze(leaf, reason)
