"""Which layouts go together, with what: nonsense is refused before a process starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modelwright.base.axes import data_ranks
from modelwright.base.errors import ModelwrightError, raise_all
from modelwright.base.written import chosen
from modelwright.parallel import LAYOUTS


@dataclass(frozen=True, kw_only=True)
class Product:
    """A layout, and all that has to go with it.

    Attributes:
        sizes: of the axes.
        settings: of the layouts, by axis.
        batch: samples of a step.
        micro_batch: samples of one forward on one worker.
        precision: name of the number format.
        compile: whether blocks are compiled.
        exact: whether gradients travel uncompressed.
        sees: what an optimizer has to see: ``elements``, whole ``tensors``, or all of the ``model``.
        updates: how many there are.
        offload: what is kept in the host's memory.
        holes: whether steps may have fewer samples than the batch.
    """

    sizes: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch: int
    micro_batch: int
    precision: str = "fp32"
    compile: bool = False
    exact: bool = True
    sees: Literal["elements", "tensors", "model"] = "elements"
    updates: int = 1
    offload: str = "none"
    holes: bool = False

    def has(self, *axes: str) -> str | None:
        """The first of these axes along which there are several ranks."""
        return next((axis for axis in axes if self.sizes.get(axis, 1) > 1), None)


def check_product(product: Product) -> None:
    """Refuse what cannot work together.

    Raises:
        ModelwrightError, Mistakes: what, why, and what to set instead.
    """
    raise_all([mistake for rule in _RULES for mistake in rule(product)])


def _even_shares(product: Product) -> Iterator[ModelwrightError]:
    axis, shares = product.has("pipeline"), data_ranks(product.sizes)
    if axis is None:
        return
    if product.batch % shares:
        yield _refusal(
            f"a batch of {product.batch} is not shared evenly by {shares} workers, which the layout {axis} needs",
            "batch",
            f"choose a multiple of {shares}",
        )
    if product.holes:
        yield _refusal(
            f"steps may have fewer samples than the batch, and in the layout {axis} workers wait for each other",
            f"plan.layout.{axis}",
            "use global or local sampling of data without holes, or other layouts",
        )


def _whole_micro_batches(product: Product) -> Iterator[ModelwrightError]:
    share, axis = product.batch // data_ranks(product.sizes), product.has("pipeline")
    if axis is not None and share % min(product.micro_batch, max(share, 1)):
        yield _refusal(
            f"micro-batches of {product.micro_batch} do not divide a worker's {share} samples of a step, and in the "
            f"layout {axis} they are alike",
            "plan.micro_batch",
            f"choose a divisor of {share}",
        )


def _compiled(product: Product) -> Iterator[ModelwrightError]:
    if product.compile and (axis := product.has("tensor", "context", "pipeline", "expert", "shard")):
        yield _refusal(
            f"blocks are not compiled in the layout {axis}: that is not proved to compute the same",
            "plan.compile",
            "set plan.compile=false",
        )


def _precision(product: Product) -> Iterator[ModelwrightError]:
    if product.precision == "fp8" and (axis := product.has("tensor", "context")):
        yield _refusal(
            f"precision fp8 scales a tensor by its largest number, and in the layout {axis} workers hold pieces of it",
            "plan.precision",
            "choose bf16, or divide by shard or pipeline",
        )


def _compression(product: Product) -> Iterator[ModelwrightError]:
    if not product.exact and (axis := product.has("shard", "tensor", "context", "pipeline", "expert")):
        yield _refusal(
            f"compressed gradients need every replica on one worker; the layout {axis} divides it",
            "plan.exchange.compression",
            "set it to none",
        )


def _whole_model(product: Product) -> Iterator[ModelwrightError]:
    if product.sees == "model" and (axis := product.has("shard", "tensor", "expert", "pipeline")):
        yield _refusal(
            "the optimizer has to see all parameters together, as far as it declares, and the layout "
            f"{axis} divides them",
            "optimizer",
            "choose one that updates each number or each tensor on its own, such as adamw or muon; if this one does, "
            'let it declare sees = "elements" or "tensors"; or choose other layouts',
        )


def _updates(product: Product) -> Iterator[ModelwrightError]:
    if product.updates > 1 and product.has("pipeline"):
        yield _refusal(
            "several updates are not combined with the layout pipeline: a worker may hold no parameter of one of them",
            "updates",
            "choose other layouts, such as shard",
        )


def _offload(product: Product) -> Iterator[ModelwrightError]:
    if product.offload != "none" and product.has("shard"):
        yield _refusal(
            "moments are offloaded by the layout itself", "plan.offload", "set plan.layout.shard.offload=true"
        )


def _scheduled(product: Product) -> Iterator[ModelwrightError]:
    if product.has("pipeline") is None:
        return
    technique = chosen({"use": "pipeline", **product.settings.get("pipeline", {})}, LAYOUTS)
    share = max(product.batch // data_ranks(product.sizes), 1)
    try:
        technique.check(product.sizes["pipeline"], -(-share // product.micro_batch))
    except ModelwrightError as error:
        yield error


def _pipelined_shards(product: Product) -> Iterator[ModelwrightError]:
    schedule = str(product.settings.get("pipeline", {}).get("schedule", "1f1b"))
    if product.has("shard") and product.has("pipeline") and schedule not in ("gpipe", "1f1b"):
        yield _refusal(
            f"the schedule {schedule} is not combined with the layout shard: torch completes gradients in a rank's "
            "last backward, which is that of one of its stages only",
            "plan.layout.pipeline.schedule",
            "choose 1f1b or gpipe",
        )


def _refusal(what: str, where: str, remedy: str) -> ModelwrightError:
    return ModelwrightError(what, where=where, remedy=remedy)


_RULES: tuple[Callable[[Product], Iterator[ModelwrightError]], ...] = (
    _even_shares,
    _whole_micro_batches,
    _compiled,
    _precision,
    _compression,
    _whole_model,
    _updates,
    _offload,
    _scheduled,
    _pipelined_shards,
)
