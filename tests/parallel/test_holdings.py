"""What a rank holds, by name."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor, nn

from modelwright.base.group import Work
from modelwright.objectives.classification import Classification
from modelwright.parallel.exchanges.bucketed import BucketedExchange
from modelwright.parallel.exchanges.compressions.none import NoCompression
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.program import LocalProgram


def tied() -> nn.ModuleDict:
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("first", "middle", "last")})
    model["last"].weight = model["first"].weight
    return model


def test_a_tied_tensor_goes_by_its_first_name_wherever_it_is_held() -> None:
    model = tied()
    held = Holdings(model)
    assert held.names() == {model["first"].weight: "first.weight", model["middle"].weight: "middle.weight"}
    held.leave_out(["first.weight"])
    assert held.names() == {model["middle"].weight: "middle.weight", model["last"].weight: "first.weight"}


def test_parameters_keep_the_models_order() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    program = LocalProgram(model, Classification(), device=torch.device("cpu"))
    assert [*map(id, program.parameters())] == [*map(id, model.parameters())]


class Noting:
    """Sums nothing, and notes which buckets it was given."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        self.numbers.append(number)
        return iter(())

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        raise NotImplementedError


def test_gradients_of_the_last_layers_are_sent_while_those_of_the_first_are_computed() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(4)])
    program = LocalProgram(model, Classification(), device=torch.device("cpu"))
    reduction = Noting()

    def build(parameters: Sequence[nn.Parameter]) -> BucketedExchange:
        exchange = BucketedExchange(2, 1, reduction, NoCompression())
        exchange.attach(parameters)
        return exchange

    program.connect(build)
    sent_before: list[int] = []
    model[0].weight.register_hook(lambda gradient: sent_before.append(len(reduction.numbers)))
    batch = {"inputs": torch.randn(3, 4), "targets": torch.tensor([0, 1, 2])}
    program.forward_backward([batch], program.counts([batch]))
    assert sent_before == [3] and reduction.numbers == [0, 1, 2, 3]
