"""Factorize: layers of any module as products of two thin matrices, of the ranks that pay."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rich.console import Console
from rich.progress import Progress
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.units import count_text
from modelwright.compression.receipt import Result, receipt_of
from modelwright.graph import Graph, trace
from modelwright.models.change import Change
from modelwright.reforms.factorable import layers_of
from modelwright.reforms.factoring import Study, factor, study
from modelwright.reforms.factors import whole_shape
from modelwright.reforms.moments import Forward, Moments, gather
from modelwright.reforms.ranks import Ranks
from modelwright.reforms.rule import RankRule
from modelwright.reforms.timing import slower

_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class FactoredLayer:
    """What became of a layer.

    Attributes:
        name: of the layer.
        shape: of its matrix, ``(outputs, columns)``, of one group.
        rank: of its factors; ``None``: it has none, or those that it had.
        parameters: weights before and after.
        error: relative error of its outputs, as a norm, on the examples; without examples that of the matrix.
        reason: why nothing was done.
    """

    name: str
    shape: tuple[int, int]
    rank: int | None
    parameters: tuple[int, int]
    error: float
    reason: str = ""

    def __str__(self) -> str:
        before, after = map(count_text, self.parameters)
        outputs, columns = self.shape
        done = self.reason if self.rank is None else f"rank {self.rank}, error {self.error:.2%}"
        return f"{self.name} [{outputs} x {columns}]: {before} -> {after}, {done}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Factorized(Result):
    """What :func:`factorize` gives: a :class:`~modelwright.compression.receipt.Result`, and more.

    Attributes:
        layers: those that may be factored, in the order of the model.
    """

    layers: tuple[FactoredLayer, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.receipt), *(f"  {each}" for each in self.layers)])


def factorize(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    error: float | None = None,
    budget: float | str | None = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    multiple: int = 1,
    faster: bool = False,
    quiet: bool = False,
) -> Factorized:
    """Factor linear layers and convolutions: ``W ~ B A``, by truncated singular value decomposition.

    With ``batches`` the error that a rank leaves in the layers' outputs on these examples is the least possible
    (SVD-LLM, arXiv:2403.07378); without, that in the weights. A layer stays whole where two matrices would not be
    smaller, and is merged where it was factored and one is smaller. Tied weights stay as they are.

    Args:
        model: any module with weights; it is not altered.
        example_inputs: a dict of arguments by name, a tuple of arguments, or one argument; the first of ``batches`` if
            it is not given. With one, layers whose weight other modules read are found, and left as they are.
        rank: the same for all layers, or by pattern of their names, of which the first that fits counts; layers that
            none fits are left out.
        energy: share of the sum of squares that each layer keeps.
        error: largest relative error of each layer's outputs, as a norm: 0.1 is the same as an energy of 0.99.
        budget: parameters of the whole model afterwards: a number, a text such as ``"20M"``, or a share up to 1. Ranks
            are then chosen for all layers together, so that the sum of their relative square errors is small.
        batches: examples, each as ``example_inputs``; some hundred sequences or images do.
        forward: of ``(model, example)``, where an example is not simply the model's arguments.
        include: patterns of names of layers; empty for all.
        exclude: patterns of names of layers to leave out.
        multiple: ranks are multiples of it, as kernels of some devices like.
        faster: also leave layers whole that are not faster with factors, measured on the example.
        quiet: show no progress.

    Raises:
        ModelwrightError: not exactly one of rank, energy, error and budget is given; no layer may be factored; a
            pattern fits nothing; the budget cannot be met; or an example cannot be used.
    """
    rule = RankRule(rank=rank, energy=energy, error=error, budget=budget)
    _check(rule, include, multiple)
    altered = copy.deepcopy(model)
    example, batches = _example(example_inputs, batches)
    if faster and example is None:
        raise ModelwrightError("what is faster shows on an example", where="faster", remedy="give example_inputs")
    names = _layers(altered, include or rule.patterns, exclude, _traced(altered, example, forward))
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        moments = None
        if batches is not None:
            told = progress.track(batches, len(batches) if isinstance(batches, Sized) else None, description="reading")
            moments = gather(altered, names, told, forward=forward)
        studies = {
            name: study(altered, name, moments[name] if moments else None, multiple=multiple)
            for name in progress.track(_read(names, moments), description="decomposing")
        }
    ranks, reasons = _ranks(altered, rule, studies, example if faster else None, forward)
    layers = [_layer(altered, studies[name], rank, reasons.get(name, "")) for name, rank in ranks.items()]
    change = factor(altered, studies, ranks, **_facts(rule, moments, layers))
    undone = _told(layers, change)
    receipt = receipt_of("factorize", model, altered, undone=undone)
    return Factorized(model=altered, change=change, receipt=receipt, layers=tuple(layers))


def _check(rule: RankRule, include: Sequence[str], multiple: int) -> None:
    if multiple < 1:
        raise ModelwrightError(f"ranks are multiples of 1 or more, not of {multiple}", where="multiple")
    if rule.patterns and include:
        raise ModelwrightError(
            "layers are chosen twice: by the patterns of rank and by include",
            where="include",
            remedy="leave include out, or give one rank for all",
        )


def _example(example: Any, batches: Iterable[Any] | None) -> tuple[Any, Iterable[Any] | None]:
    """An example, and the batches, of which none is lost; what has a length keeps it."""
    if example is not None or batches is None:
        return example, batches
    rest = iter(batches)
    first = next(rest, None)
    return first, batches if isinstance(batches, Sized) else chain([] if first is None else [first], rest)


def _traced(model: nn.Module, example: Any, forward: Forward | None) -> Graph | None:
    if example is None:
        return None
    try:
        return trace(model, example, forward=forward)
    except ModelwrightError as error:
        emit(
            "factorize-untraced",
            f"whether modules read weights of others is not known: {error.what}",
            level="warning",
            where=error.where,
        )
        return None


def _layers(model: nn.Module, include: Sequence[str], exclude: Sequence[str], graph: Graph | None) -> tuple[str, ...]:
    found = layers_of(model, include=include, exclude=exclude, graph=graph)
    if not found.names:
        raise ModelwrightError(
            "no layer may be factored",
            where=_listed(found.refused) or type(model).__name__,
            remedy="choose others by include and exclude, or leave this step out",
        )
    if found.refused:
        message = f"{_count(found.refused)} may not be factored: {_listed(found.refused)}"
        emit("layers-not-factored", message, layers=dict(found.refused))
    return found.names


def _read(names: Sequence[str], moments: Mapping[str, Moments] | None) -> list[str]:
    """The layers without those that no example reached."""
    idle = {} if moments is None else {name: "no example reached it" for name in names if name not in moments}
    if idle:
        message = f"{_count(idle)} may not be factored, as no example reached: {', '.join(idle)}"
        emit("layers-not-factored", message, level="warning", layers=idle)
    return [name for name in names if name not in idle]


def _ranks(
    model: nn.Module, rule: RankRule, studies: Mapping[str, Study], example: Any, forward: Forward | None
) -> tuple[Ranks, dict[str, str]]:
    """The rank of each layer, and why some have none. Layers that are slower drop out, and it begins anew."""
    known = {name: each.options for name, each in studies.items()}
    total = sum(each.numel() for each in model.parameters())
    reasons: dict[str, str] = {}
    timed: Ranks = {}
    while True:
        open_ones = [each for name, each in known.items() if name not in reasons]
        ranks = rule.choose(open_ones, total - sum(each.parameters for each in open_ones))
        new = {name: rank for name, rank in ranks.items() if timed.get(name) != rank}
        slow = {} if example is None else slower(model, new, example, forward=forward)
        timed.update(new)
        if not slow:
            break
        for name, (before, after) in slow.items():
            reasons[name] = f"slower with rank {ranks[name]}: {before:.3g} ms, now {after:.3g} ms"
    for name, rank in ranks.items():
        if rank is None:
            reasons[name] = _why_whole(studies[name], rule)
    return {name: ranks.get(name) for name in known}, reasons


def _why_whole(known: Study, rule: RankRule) -> str:
    if known.options.whole < known.options.parameters:
        return "merged: one matrix is smaller"
    if not known.options.ranks():
        return "whole: no rank makes it smaller"
    if rule.budget is not None:
        return "whole: the budget leaves room for it"
    return "whole: the rank that it needs does not make it smaller"


def _layer(model: nn.Module, known: Study, rank: int | None, reason: str) -> FactoredLayer:
    options = known.options
    _, outputs, columns = whole_shape(model.get_submodule(options.name))
    return FactoredLayer(
        name=options.name,
        shape=(outputs, columns),
        rank=rank,
        parameters=(options.parameters, options.size(rank)),
        error=math.sqrt(options.loss(rank)),
        reason=reason,
    )


def _facts(rule: RankRule, moments: Mapping[str, Moments] | None, layers: Sequence[FactoredLayer]) -> dict[str, Any]:
    read = min((each.positions for each in moments.values()), default=0) if moments else 0
    return {
        **rule.given,
        "weighed": moments is not None,
        "positions": read,
        "errors": {each.name: each.error for each in layers if each.rank is not None},
    }


def _told(layers: Sequence[FactoredLayer], change: Change) -> str:
    """Tell of the layers that did not get factors; why nothing was gained at all, if so."""
    whole = {each.name: each.reason for each in layers if each.rank is None}
    if not change.edits:
        emit("factorize-idle", f"nothing was factored: {_listed(whole)}", level="warning", layers=whole)
        return _listed(whole)
    if whole:
        emit("factoring-undone", f"{_count(whole)} did not get factors: {_listed(whole)}", layers=whole)
    return ""


def _count(layers: Sized) -> str:
    return f"{len(layers)} layer{'s' if len(layers) != 1 else ''}"


def _listed(reasons: Mapping[str, str]) -> str:
    """Each reason, and some of the layers that it is of."""
    layers: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        layers.setdefault(reason, []).append(name)
    return "; ".join(f"{reason}: {_some(names)}" for reason, names in layers.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
