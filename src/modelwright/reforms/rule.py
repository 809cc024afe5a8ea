"""How ranks are chosen: one of rank, energy, error and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches
from modelwright.base.units import parse_count
from modelwright.reforms.ranks import Options, Ranks, by_budget, by_energy, by_error, by_rank


@dataclass(frozen=True, kw_only=True)
class RankRule:
    """Exactly one of the four is given.

    Attributes:
        rank: the same for all layers, or by pattern of their names, of which the first that fits counts.
        energy: share of the sum of squares that each layer keeps.
        error: largest relative error of each layer's outputs, as a norm.
        budget: parameters of the whole model afterwards: a number, a text such as ``20M``, or a share up to 1.
    """

    rank: int | Mapping[str, int] | None = None
    energy: float | None = None
    error: float | None = None
    budget: float | str | None = None

    def __post_init__(self) -> None:
        if len(self.given) != 1:
            found = " and ".join(self.given) or "none"
            raise ModelwrightError(
                f"ranks are chosen by exactly one of {', '.join(vars(self))}, not by {found}",
                remedy="give for example budget=0.5: half of the parameters",
            )
        ranks = self.rank.values() if isinstance(self.rank, Mapping) else [1 if self.rank is None else self.rank]
        if any(rank < 1 for rank in ranks):
            raise ModelwrightError(f"a rank is at least 1, not {min(ranks)}", where="rank")
        for name in ("energy", "error"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ModelwrightError(f"{name} is between 0 and 1, not {value}", where=name)
        if self.budget is not None and self.parameters(100) < 1:
            raise ModelwrightError(f"a budget of {self.budget} leaves nothing", where="budget")

    @property
    def given(self) -> dict[str, Any]:
        """The one that is given, JSON-ready."""
        plain = {name: dict(each) if isinstance(each, Mapping) else each for name, each in vars(self).items()}
        return {name: each for name, each in plain.items() if each is not None}

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the names of layers, where ranks are given by pattern."""
        return tuple(self.rank) if isinstance(self.rank, Mapping) else ()

    def parameters(self, total: int) -> int:
        """What the budget is, of a model that has ``total``."""
        amount = parse_count(self.budget) if isinstance(self.budget, str) else self.budget or 0
        return round(amount * total) if amount <= 1 else round(amount)

    def choose(self, layers: Sequence[Options], others: int) -> Ranks:
        """The ranks of ``layers``, beside which the model has so many ``others``, parameters.

        Raises:
            ModelwrightError: the budget cannot be met.
        """
        if self.energy is not None:
            return by_energy(layers, self.energy)
        if self.error is not None:
            return by_error(layers, self.error)
        if self.rank is not None:
            return by_rank(layers, {each.name: self._rank_of(each.name) for each in layers})
        total = others + sum(each.parameters for each in layers)
        return by_budget(layers, self.parameters(total) - others)

    def _rank_of(self, name: str) -> int:
        if not isinstance(self.rank, Mapping):
            return self.rank or 1
        return next(rank for pattern, rank in self.rank.items() if matches(name, [pattern]))
