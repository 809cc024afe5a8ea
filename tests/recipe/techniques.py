"""Small families and a schema of the tests' own, so that they judge the recipe room and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Bytes, Count, Seconds
from modelwright.training.settings import Budget

HERE = "tests.recipe.techniques"
SOLVERS = Family("solver", {"adam": f"{HERE}:Adam", "plain": f"{HERE}:Plain"})
SOURCES = Family("source", {"files": f"{HERE}:Files", "mixture": f"{HERE}:Mixture"})


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Moments of both orders.

    More words that are no summary.

    Attributes:
        lr: peak learning rate.
        betas: decay of the first
            and of the second moment.
        fused: one kernel for all parameters.
        mode: how it works.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    fused: bool = False
    mode: Literal["exact", "fast"] = "exact"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ModelwrightError(f"lr must be more than zero, not {self.lr:g}")


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Gradient descent.

    Attributes:
        lr: learning rate.
        layers: sizes of something.
    """

    lr: float
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files by pattern.

    Attributes:
        pattern: which files.
        limit: bytes to read at most.
        root: where they lie.
    """

    pattern: str
    limit: Bytes | None = None
    root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources.

    Attributes:
        parts: what is mixed.
        weights: how much of each, by name.
    """

    parts: tuple[Annotated[object, SOURCES], ...]
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A small recipe.

    Attributes:
        title: any text.
        solver: what solves it.
        source: where samples come from.
        batch: samples of one step.
        pause: time between steps.
        workers: processes, or auto.
        clip: largest norm; null for none.
        tags: any words.
        budget: when it ends.
    """

    title: str | None = None
    solver: Annotated[object, SOLVERS] = field(default_factory=Adam)
    source: Annotated[object, SOURCES]
    batch: Count
    pause: Seconds = 0.0
    workers: int | Literal["auto"] = "auto"
    clip: float | None = 1.0
    tags: tuple[str, ...] = ()
    budget: Budget = field(default_factory=lambda: Budget(steps=10))


@dataclass
class Theirs:
    """A user's dataclass, neither frozen nor keyword-only."""

    depth: int
    rate: float = 0.5


class Own:
    """A user's plain class."""

    def __init__(self, width: int, names: tuple[str, ...] = (), anything=None) -> None:  # type: ignore[no-untyped-def]
        if width > 100:
            raise ValueError("too wide")
        self.width, self.names, self.anything = width, names, anything


def own_function(lr: float, **others: object) -> tuple[float, dict[str, object]]:
    """A user's function that takes anything."""
    return lr, others
