"""What a user asks of the planner: fixed values, or ``auto`` for the planner's choice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, cast

from modelwright.base.axes import AXES, ordered, product_text
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.units import Bytes
from modelwright.base.written import chosen, written
from modelwright.parallel import EXCHANGES, LAYOUTS


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
            patterns of their names; a size, such as 4GB: as little as lets a micro-batch's activations fit; auto
            recomputes only if nothing fits otherwise.
        compile: compile the repeated blocks of the model; auto tries it where the run is long enough to pay for it.
        offload: what is kept in the host's memory between steps; the moments of the optimizer, or none.
        layout: workers along each axis of the mesh (replicate, shard, tensor, context, pipeline, expert): a number, or
            a mapping of size and the layout's settings; along replicate, as many as are left over.
        exchange: how gradients travel between workers.
        measure: measure the candidates before training; without it, auto means a rule of thumb.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "bf16-weights", "fp16", "fp8"] = "auto"
    attention: Literal["auto", "sdpa", "explicit", "flex"] = "auto"
    recompute: Literal["auto", "none", "full", "selective"] | Bytes | tuple[str, ...] = "auto"
    compile: bool | Literal["auto"] = "auto"
    offload: Literal["none", "moments"] = "none"
    layout: dict[str, int | dict[str, Any]] = field(default_factory=dict)
    exchange: Annotated[object, EXCHANGES] = field(default_factory=_all_reduce)
    measure: bool = True

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "micro_batch"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ModelwrightError(f"'{name}' must be at least 1, not {value}", where=name, remedy="or write auto")
        self._check_layout()
        if isinstance(self.exchange, str | dict):  # from Python
            object.__setattr__(self, "exchange", chosen(self.exchange, EXCHANGES))

    @property
    def planned_exchange(self) -> str | dict[str, Any]:
        """The exchange as a plan keeps it."""
        plain: str | dict[str, Any] = written(self.exchange, EXCHANGES)
        return plain

    @property
    def sizes(self) -> dict[str, int]:
        """Workers along each axis that the layout names, outermost first."""
        return ordered({axis: _size(axis, value) for axis, value in self.layout.items()})

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of the layouts that have any, by axis."""
        given = {
            axis: {name: setting for name, setting in value.items() if name != "size"}
            for axis, value in self.layout.items()
            if isinstance(value, dict)
        }
        return {axis: settings for axis, settings in given.items() if settings}

    def sized(self, workers: int) -> dict[str, int]:
        """The layout of so many workers: along ``replicate`` there are as many as are left over.

        Raises:
            ModelwrightError: they cannot be arranged so.
        """
        sizes = self.sizes
        fixed = math.prod(sizes.values())
        if fixed == workers:
            return sizes or {"replicate": 1}
        if "replicate" in sizes or workers % fixed:
            raise ModelwrightError(
                f"{workers} worker{'s' * (workers != 1)} cannot be arranged as {product_text(sizes)}",
                where="plan.layout",
                remedy=f"set plan.workers={fixed}, or leave it at auto",
            )
        return ordered({**sizes, "replicate": workers // fixed})

    def _check_layout(self) -> None:
        for axis in self.sizes:
            if settings := self.settings.get(axis, {}):
                _check_settings(axis, settings)
        if self.layout and self.workers != "auto":
            self.sized(int(self.workers))


def _size(axis: str, value: int | dict[str, Any]) -> Any:
    if isinstance(value, dict) and "size" not in value and axis in AXES:
        raise ModelwrightError(
            f"the layout {axis} does not say over how many workers",
            where=f"plan.layout.{axis}",
            remedy=f"add it beside its settings: plan.layout.{axis}.size=2",
        )
    return value.get("size", 1) if isinstance(value, dict) else value


def _check_settings(axis: str, settings: dict[str, Any]) -> None:
    if axis == "replicate":
        raise ModelwrightError(
            "replicate has no settings", where="plan.layout.replicate", remedy="plan.exchange has them"
        )
    known = [entry.name for entry in fields(cast(Any, LAYOUTS.resolve(axis))) if entry.init and entry.name != "axis"]
    for name in settings.keys() - known:
        remedy = nearest(name, known) or f"leave it out: {axis} has only a size"
        raise ModelwrightError(
            f"the layout {axis} has no setting '{name}'", where=f"plan.layout.{axis}.{name}", remedy=remedy
        )
    chosen({"use": axis, **settings}, LAYOUTS)
