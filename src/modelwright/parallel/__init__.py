"""Parallel: how a program is computed on this rank, and how ranks share the work.

Layouts reshape a program over mesh axes, exchanges decide how updates travel between replicas, precisions in which
numbers a step is computed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from modelwright.base.group import Group, Work
    from modelwright.base.world import Mesh
    from modelwright.parallel.draft import Draft
    from modelwright.parallel.exchanges.contents import Contents

LAYOUTS = Family(
    "layout",
    {
        "pipeline": "modelwright.parallel.layouts.pipeline:Pipeline",
        "replicate": "modelwright.parallel.layouts.replicate:Replicate",
        "shard": "modelwright.parallel.layouts.shard:Shard",
        "expert": "modelwright.parallel.layouts.expert:Expert",
        "context": "modelwright.parallel.layouts.context:Context",
        "tensor": "modelwright.parallel.layouts.tensor:Tensor",
    },
)
EXCHANGES = Family(
    "exchange",
    {
        "all-reduce": "modelwright.parallel.exchanges.all_reduce:AllReduce",
        "ring": "modelwright.parallel.exchanges.ring:Ring",
        "central": "modelwright.parallel.exchanges.central:Central",
    },
)
COMPRESSIONS = Family(
    "compression",
    {
        "none": "modelwright.parallel.exchanges.compressions.none:NoCompression",
        "bf16": "modelwright.parallel.exchanges.compressions.bf16:Bf16",
        "powersgd": "modelwright.parallel.exchanges.compressions.powersgd:PowerSGD",
    },
)
PRECISIONS = Family(
    "precision",
    {
        "fp32": "modelwright.parallel.precisions.full:Full",
        "tf32": "modelwright.parallel.precisions.full:Tf32",
        "bf16": "modelwright.parallel.precisions.mixed:Bf16",
        "bf16-weights": "modelwright.parallel.precisions.short_weights:Bf16Weights",
        "fp16": "modelwright.parallel.precisions.mixed:Fp16",
        "fp8": "modelwright.parallel.precisions.fp8:Fp8",
    },
)


class Precision(Protocol):
    """In which number formats a step is computed. Parameters keep their own type: they are the masters.

    ``scaled`` says that gradients may vanish and the loss wants a dynamic scale.
    """

    scaled: ClassVar[bool]

    def check(self, device: torch.device) -> None:
        """Refuse a device that cannot compute so."""

    def convert(self, model: nn.Module) -> None:
        """Prepare the model, once, on its device; names of parameters stay."""

    def step(self) -> AbstractContextManager[Any]:
        """Surround forward and backward of a step."""

    def forward(self, model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
        """Surround the model and its loss."""


class Exchange(Protocol):
    """The only one to communicate between replicas. Reductions are sums."""

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Learn, once, which parameters have replicas elsewhere."""

    def backward(self, last: bool) -> AbstractContextManager[None]:
        """Surround the backward of a micro-batch; ``last`` says that the step's gradients are then complete."""

    def before_step(self) -> None:
        """Complete what is open: afterwards every ``.grad`` is the sum over all replicas."""

    def after_step(self, masked: Tensor | bool = False) -> None:
        """Act on the updated parameters; of a step that was ``masked`` nothing was applied."""

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """This rank's tensors to be saved with the State (error feedback and the like), as ``PARAMETER/KIND``."""

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """Go on from the states of all ranks that there were, which may have been more or fewer than now."""


class Reduction(Protocol):
    """Sums flat tensors over the replicas, in stages: it gives what is under way, and goes on once that is done.

    Every rank calls it for the same tensors in the same order.
    """

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        """Sum ``tensor``, in place; ``number`` is that of the bucket."""

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        """The same, where numbers travel in a shorter type and are summed in that of ``tensor``.

        Returns what this rank's roundings left out: over all ranks exactly what the sum lacks.
        """


class Channel(Protocol):
    """The way of one bucket's gradients, with what is remembered about them."""

    def sum(self, flat: Tensor, reduction: Reduction, number: int) -> Iterator[Work]:
        """Sum the gradients in ``flat`` in place, nearly, and the flags that follow them exactly."""

    def keep(self, masked: Tensor | bool) -> None:
        """The step is over: what was learnt in it counts, unless it was masked."""

    def state(self) -> list[dict[str, Tensor]]:
        """What is remembered, by parameter and kind; an ``error`` is of this rank, all else the same on all."""

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Become what :meth:`state` gave."""


class Compression(Protocol):
    """The configuration of what travels in place of whole gradients."""

    exact: ClassVar[bool]

    def channel(self, contents: Contents) -> Channel:
        """The way of one bucket."""


class Program(Protocol):
    """A model with its objective, as laid out on this rank.

    Attributes:
        device: where it computes.
        terms: those of the objective that it minimises; ``None`` for all.
        contributes: whether this rank's counts count: others that share its samples have the same.
    """

    device: torch.device
    exchange: Exchange
    terms: frozenset[str] | None
    contributes: bool

    def place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch moved to where the program computes."""

    def counts(self, micro_batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Valid targets of this rank's micro-batches, by term of the objective."""

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Gradients of ``scale * sum(coefficient * total / count)``; local totals by term, on the device."""

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs, or ``None`` on a rank that does not hold them."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters this rank holds."""

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by the user's own names."""

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Global 2-norm of their gradients, over the program's own axes."""

    def synchronise(self) -> None:
        """Make what may differ between replicas (buffers) the same; a collective."""


class Layout(Protocol):
    """Reshapes a program over one axis of the mesh."""

    def apply(self, program: Program, mesh: Mesh) -> Program:
        """The program as this rank runs it."""

    def sketch(self, draft: Draft) -> Draft:
        """What the layout makes of a step that has neither weights nor other ranks, after the layouts before it."""


class ExchangeTechnique(Protocol):
    """The configuration of an exchange.

    A class attribute ``alike = True`` says that every rank sends as many bytes as the others.
    """

    def build(self, group: Group) -> Exchange:
        """The exchange over a group of replicas."""
