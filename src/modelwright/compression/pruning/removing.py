"""Prune a model: find its units, score them, remove those that matter least."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.compression.pruning import CRITERIA, Criterion, Evidence
from modelwright.compression.pruning.choosing import Scope, choose
from modelwright.compression.receipt import Result, receipt_of
from modelwright.compression.structure import KINDS, UnitClass, Units
from modelwright.graph.tracing import Forward
from modelwright.models.change import Change

DEFAULT_KINDS = ("channel", "channel-group", "expert", "head", "kv-group", "unit", "width")
_SHOWN = 12


def prune(
    model: nn.Module,
    example_inputs: Any,
    keep: float = 0.5,
    criterion: str | Criterion = "magnitude",
    *,
    scope: Scope = "layer",
    kinds: Sequence[str] = DEFAULT_KINDS,
    multiple: int = 1,
    batches: Iterable[Any] | None = None,
    objective: Any = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> Result:
    """Remove units of a model, those that matter least, so that it is smaller and faster without any mask.

    What is left computes what the model computed with the contributions of the removed units taken away; entries of the
    residual stream leave the statistics of norms too.

    Args:
        model: any module; it is not altered.
        example_inputs: a dict of arguments by name, a tuple of arguments, or one argument.
        keep: which share of the units stays, between 0 and 1.
        criterion: a name of :data:`CRITERIA`, or a criterion.
        scope: ``layer``: that share of every class of units; ``global``: of all together, the lowest scores go.
        kinds: of which kinds units may go, see :class:`~modelwright.compression.structure.UnitClass`.
        multiple: how many stay is a multiple of this, as far as there are so many; 8 or 16 suits most hardware.
        batches: data for criteria that look at it.
        objective: for criteria that need a loss.
        seed: of whatever is random.
        forward: of ``(model, example_inputs)``: what the caller reads of the outputs, whose shape stays; by default all
            that the model returns.

    Returns:
        The pruned model, the change and the receipt, whose facts list how many units of each kind there were and are.

    Raises:
        ModelwrightError: the model cannot be traced, or an argument makes no sense.
    """
    _check(keep, scope, kinds, multiple)
    units = Units(model, example_inputs, forward=forward)
    classes = [each for each in units.classes if each.kind in kinds]
    evidence = Evidence(example_inputs=example_inputs, batches=batches, objective=objective, forward=forward, seed=seed)
    chosen = CRITERIA.resolve(criterion)() if isinstance(criterion, str) else criterion
    smaller = copy.deepcopy(model)
    scores = _scores(chosen, smaller, units, evidence)
    needed = chosen.needed(smaller, units, scores, evidence) if hasattr(chosen, "needed") else None
    stay = choose(_complete(classes, units), scores, keep, scope=scope, multiple=multiple, needed=needed)
    going = {number: places for number, places in stay.items() if len(places) < units[number].size}
    _report(units, kinds)
    if not going:
        return _nothing(model, smaller, units)
    if hasattr(chosen, "mend"):
        chosen.mend(smaller, units, going, evidence)
    change = units.change(going, facts=_facts(keep, scope, criterion, units, going))
    change.apply(smaller)
    return Result(model=smaller, change=change, receipt=receipt_of("prune", model, smaller, facts=change.facts))


def _check(keep: float, scope: str, kinds: Sequence[str], multiple: int) -> None:
    if not 0 < keep <= 1:
        raise ModelwrightError(f"{keep} is no share of units to keep", where="keep", remedy="write one such as 0.5")
    if scope not in ("layer", "global"):
        raise ModelwrightError(f"there is no scope {scope!r}", where="scope", remedy="write layer or global")
    if multiple < 1:
        raise ModelwrightError(f"nothing is a multiple of {multiple}", where="multiple", remedy="write 1, 8 or 16")
    if unknown := set(kinds) - set(KINDS):
        raise ModelwrightError(
            f"there are no units of kind {', '.join(sorted(unknown))}",
            where="kinds",
            remedy=f"known: {', '.join(KINDS)}",
        )


def _complete(classes: Sequence[UnitClass], units: Units) -> list[UnitClass]:
    """Those only, of whose companions, which must keep equally many, all are among them."""
    numbers = {each.number for each in classes}
    lacking = {each.together for each in units.classes if each.number not in numbers}
    return [each for each in classes if each.together not in lacking]


def _scores(criterion: Criterion, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
    scores = criterion.scores(model, units, evidence)
    for each in units.classes:
        given = scores.get(each.number)
        if given is None or given.shape != (each.size,) or not bool(given.isfinite().all()):
            raise ModelwrightError(
                f"the criterion {type(criterion).__name__} gave no {each.size} finite scores for the {each.name}",
                remedy="return one tensor [size] for each of units.classes",
            )
    return scores


def _report(units: Units, kinds: Sequence[str]) -> None:
    frozen = [each for each in units.frozen if each.kind in kinds]
    reasons = Counter(each.reason for each in frozen)
    if not frozen:
        return
    said = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(_SHOWN))
    emit("pruning-frozen", f"{len(frozen)} classes of units stay whole: {said}", reasons=dict(reasons))


def _nothing(model: nn.Module, copied: nn.Module, units: Units) -> Result:
    reason = "no unit was to go" if units.classes else "no class of units can be removed"
    emit("pruning-undone", f"nothing was pruned: {reason}", level="warning")
    change = Change(kind="pruned", edits=())
    return Result(model=copied, change=change, receipt=receipt_of("prune", model, copied, undone=reason))


def _facts(
    keep: float, scope: str, criterion: str | Criterion, units: Units, going: Mapping[int, list[int]]
) -> dict[str, Any]:
    name = criterion if isinstance(criterion, str) else CRITERIA.short_name(type(criterion))
    before, after = Counter[str](), Counter[str]()
    for each in units.classes:
        before[each.kind] += each.size
        after[each.kind] += len(going[each.number]) if each.number in going else each.size
    counts = {kind: [before[kind], after[kind]] for kind in before}
    return {"criterion": name, "keep": keep, "scope": scope, "units": counts}
