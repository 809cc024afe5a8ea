"""Gradients of experts and of all else have different replicas: each kind has an exchange of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from modelwright.base.group import Group
from modelwright.models.experts import Experts
from modelwright.parallel import Exchange, ExchangeTechnique


class Exchanges:
    """An :class:`~modelwright.parallel.Exchange` that has several, each for some of the parameters."""

    def __init__(self, members: Sequence[tuple[Exchange, Sequence[nn.Parameter]]]) -> None:
        self._members = [(exchange, list(parameters)) for exchange, parameters in members if parameters]

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each learns its own among these."""
        wanted = set(parameters)
        for exchange, own in self._members:
            exchange.attach([parameter for parameter in own if parameter in wanted])

    @contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        """Surround a backward by all of them."""
        with ExitStack() as stack:
            for exchange, _ in self._members:
                stack.enter_context(exchange.backward(last))
            yield

    def before_step(self) -> None:
        """Complete what is open in each."""
        for exchange, _ in self._members:
            exchange.before_step()

    def after_step(self, masked: Tensor | bool = False) -> None:
        """Let each act on its parameters."""
        for exchange, _ in self._members:
            exchange.after_step(masked)

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """What all of them remember."""
        found: dict[str, Tensor] = {}
        for exchange, own in self._members:
            found |= exchange.state(_of(own, names))
        return found

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """Give each what is about its parameters."""
        for exchange, own in self._members:
            mine = set(_of(own, names).values())
            chosen = [
                {key: value for key, value in state.items() if key.rpartition("/")[0] in mine} for state in states
            ]
            exchange.load(chosen, _of(own, names), rank)


def _of(own: Sequence[nn.Parameter], names: Mapping[nn.Parameter, str]) -> dict[nn.Parameter, str]:
    return {parameter: names[parameter] for parameter in own if parameter in names}


def exchanges(
    model: nn.Module,
    technique: ExchangeTechnique,
    parameters: Sequence[nn.Parameter],
    *,
    replicas: Group,
    everyone: Group,
) -> Exchange:
    """The exchange of a model whose experts are spread.

    Args:
        model: as this rank has it.
        technique: how updates travel.
        parameters: that are trained.
        replicas: ranks with the same experts.
        everyone: ranks with the same of all else: the replicas, times those that share the experts.
    """
    layers = [module for module in model.modules() if isinstance(module, Experts)]
    spread = {getattr(layer, stack) for layer in layers if layer.travel is not None for stack in layer.stacked}
    of_experts = [parameter for parameter in parameters if parameter in spread]
    others = [parameter for parameter in parameters if parameter not in spread]
    exchange = Exchanges([(technique.build(replicas), of_experts), (technique.build(everyone), others)])
    exchange.attach(parameters)
    return exchange
