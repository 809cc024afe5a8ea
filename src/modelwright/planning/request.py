"""What a user asks of the planner: fixed values, or ``auto`` for the planner's choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from modelwright.base.errors import ModelwrightError
from modelwright.base.written import chosen, written
from modelwright.parallel import EXCHANGES


def _all_reduce() -> object:
    return EXCHANGES.resolve("all-reduce")()


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """How the job should run; what is ``auto`` is chosen by a short measurement of the real loop.

    Attributes:
        workers: processes that train together, or auto.
        threads: CPU threads of each worker, or auto.
        micro_batch: samples of one forward and backward on one worker, or auto.
        precision: number format of the matrix products, or auto.
        attention: attention kernel of models that offer a choice, or auto.
        recompute: activations that are computed again in the backward, which saves memory: of no block, of every
            repeated block in full, of the same selectively (results of matrix products are kept), or of modules by
            patterns of their names; auto recomputes only if nothing fits otherwise.
        compile: compile the repeated blocks of the model; auto tries it where the run is long enough to pay for it.
        offload: what is kept in the host's memory between steps; the moments of the optimizer, or none.
        exchange: how gradients travel between workers.
        measure: measure the candidates before training; without it, auto means a rule of thumb.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "bf16-weights", "fp16", "fp8"] = "auto"
    attention: Literal["auto", "sdpa", "explicit", "flex"] = "auto"
    recompute: Literal["auto", "none", "full", "selective"] | tuple[str, ...] = "auto"
    compile: bool | Literal["auto"] = "auto"
    offload: Literal["none", "moments"] = "none"
    exchange: Annotated[object, EXCHANGES] = field(default_factory=_all_reduce)
    measure: bool = True

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "micro_batch"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ModelwrightError(f"'{name}' must be at least 1, not {value}", where=name, remedy="or write auto")
        if isinstance(self.exchange, str | dict):  # from Python
            object.__setattr__(self, "exchange", chosen(self.exchange, EXCHANGES))

    @property
    def planned_exchange(self) -> str | dict[str, Any]:
        """The exchange as a plan keeps it."""
        plain: str | dict[str, Any] = written(self.exchange, EXCHANGES)
        return plain
