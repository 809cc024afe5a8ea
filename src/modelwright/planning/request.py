"""What a user asks of the planner: fixed values, or ``auto`` for the planner's choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelwright.base.errors import ModelwrightError


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """How the job should run; what is ``auto`` is chosen by a short measurement of the real loop.

    Attributes:
        workers: processes that train together, or auto.
        threads: CPU threads of each worker, or auto.
        micro_batch: samples of one forward and backward on one worker, or auto.
        precision: number format of the matrix products, or auto.
        attention: attention kernel of models that offer a choice, or auto.
        measure: measure the candidates before training; without it, auto means a rule of thumb.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    measure: bool = True

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "micro_batch"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ModelwrightError(f"'{name}' must be at least 1, not {value}", where=name, remedy="or write auto")
