"""Replicate: every rank of the axis holds the whole model and computes its own part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, cast

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.parallel import COMPRESSIONS, EXCHANGES, Exchange, ExchangeTechnique
from modelwright.parallel.draft import Draft, Held
from modelwright.parallel.dry import Bytes
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.exchanges.dry import exchanged
from modelwright.parallel.holdings import owned
from modelwright.parallel.program import LocalProgram

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """Data parallelism: one replica on each rank of the axis.

    Attributes:
        axis: the axis of the mesh.
        exchange: how updates travel between the replicas.
    """

    axis: str = "replicate"
    exchange: Annotated[object, EXCHANGES] = field(default_factory=AllReduce)

    def apply(self, program: LocalProgram, mesh: Mesh) -> LocalProgram:
        """Give every replica rank 0's tensors and connect the exchange; a collective.

        Raises:
            ModelwrightError: the exchange remembers errors, which a changing loss scale would falsify.
        """
        group = mesh.axis(self.axis)
        _check_compression(self.exchange, program, group)
        equalise(program.model, group)
        say_what_is_inexact(program.model, group)
        program.replicas = group
        self.connect(program, group)
        return program

    def sketch(self, draft: Draft) -> Draft:
        """Sum each gradient over the axes over which it still is to be summed."""
        known: dict[Any, Mapping[str, Bytes]] = {}
        for spot, held in draft.parts():
            for over, parameters in _by_axes(draft, held).items():
                key = (over, *((parameter.shape, parameter.dtype) for parameter in parameters))
                if key not in known:
                    known[key] = exchanged(cast(ExchangeTechnique, self.exchange), parameters, draft.group(over))
                for kind, sizes in known[key].items():
                    draft.send(kind, over, sizes, spot)
        return draft

    def connect(self, program: LocalProgram, group: Group) -> None:
        """Let the gradients of the program be summed over ``group``."""

        def build(parameters: Sequence[nn.Parameter]) -> Exchange:
            exchange = cast(ExchangeTechnique, self.exchange).build(group)
            exchange.attach(parameters)
            return exchange

        program.connect(build)


def _by_axes(draft: Draft, held: Sequence[Held]) -> dict[tuple[str, ...], list[nn.Parameter]]:
    found: dict[tuple[str, ...], list[nn.Parameter]] = {}
    for each in held:
        if over := draft.along(each.over):
            found.setdefault(over, []).append(each.parameter)
    return found


def equalise(model: nn.Module, group: Group) -> None:
    """Give every rank of ``group`` rank 0's tensors; a collective."""
    for tensor in filter(owned, chain(model.parameters(), model.buffers())):  # also buffers that no file holds
        group.broadcast(tensor.detach())


def batch_norms(model: nn.Module) -> list[str]:
    """Names of the modules whose statistics are those of the batch they see; frozen ones are left out."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BATCH_NORM) and (module.training or module.running_mean is None)
    ]


def _check_compression(exchange: object, program: LocalProgram, group: Group) -> None:
    compression = getattr(exchange, "compression", None)
    if group.size == 1 or getattr(compression, "exact", True):
        return
    if program.precision.scaled:
        raise ModelwrightError(
            "errors of compressed gradients are remembered from step to step, and a loss scale changes between them",
            where="plan.exchange",
            remedy="choose precision bf16, or exchange.compression none",
        )
    if group.rank == 0:
        emit(
            "exchange-inexact",
            f"gradients travel compressed, so {group.size} workers do not train exactly like one",
            compression=COMPRESSIONS.short_name(type(compression)),
        )


def say_what_is_inexact(model: nn.Module, group: Group) -> None:
    """Warn of batch norms, where ranks have different samples."""
    names = batch_norms(model)
    if names and group.size > 1 and group.rank == 0:
        emit(
            "batch-norm-inexact",
            f"{len(names)} batch-norm modules compute their statistics per worker, so {group.size} workers do not "
            "train exactly like one; GroupNorm would",
            level="warning",
            modules=names,
        )
