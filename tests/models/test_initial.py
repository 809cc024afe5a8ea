from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models import INITIALS
from modelwright.models.gpt import GPT
from modelwright.models.initial import (
    Constant,
    Kaiming,
    Normal,
    Ones,
    Orthogonal,
    Scaled,
    Scheme,
    TruncatedNormal,
    Uniform,
    Xavier,
    Zeros,
    initialise,
)

SMALL = GPT(vocabulary=17, layers=2, width=8, heads=2)
init = nn.init


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_torch(shape: tuple[int, ...], draw: Callable[[Tensor], object]) -> Tensor:
    torch.manual_seed(5)
    tensor = torch.empty(shape)
    draw(tensor)
    return tensor


@pytest.mark.parametrize("shape", [(12, 7), (6, 4, 3, 3)], ids=str)
@pytest.mark.parametrize(
    ("scheme", "draw"),
    [
        (Normal(std=0.3), lambda x: init.normal_(x, std=0.3)),
        (TruncatedNormal(std=0.3), lambda x: init.trunc_normal_(x, std=0.3, a=-0.6, b=0.6)),
        (Uniform(bound=0.2), lambda x: init.uniform_(x, -0.2, 0.2)),
        (Kaiming(), lambda x: init.kaiming_normal_(x, nonlinearity="relu")),
        (
            Kaiming(mode="fan_out", nonlinearity="tanh", distribution="uniform"),
            lambda x: init.kaiming_uniform_(x, mode="fan_out", nonlinearity="tanh"),
        ),
        (Xavier(gain=2.0), lambda x: init.xavier_uniform_(x, gain=2.0)),
        (Xavier(distribution="normal"), init.xavier_normal_),
        (Orthogonal(gain=0.5), lambda x: init.orthogonal_(x, gain=0.5)),
        (Scaled(std=0.02, layers=8), lambda x: init.normal_(x, std=0.005)),
        (Constant(value=-1.5), lambda x: init.constant_(x, -1.5)),
        (Zeros(), init.zeros_),
        (Ones(), init.ones_),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fill") else "",
)
def test_equals_torch(scheme: Scheme, draw: Callable[[Tensor], object], shape: tuple[int, ...]) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.full(shape, math.nan))
    torch.manual_seed(5)
    drawn = initialise(model, {"*": scheme})
    assert torch.equal(model.weight.detach(), by_torch(shape, draw))
    assert list(drawn) == ["weight"]
    assert INITIALS.resolve(drawn["weight"]) is type(scheme)


def test_every_listed_scheme_is_tested_above() -> None:
    tested = {Constant, Kaiming, Normal, Ones, Orthogonal, Scaled, TruncatedNormal, Uniform, Xavier, Zeros}
    assert {INITIALS.resolve(name) for name in INITIALS.listing} == tested


def test_the_first_pattern_counts_and_the_rest_is_kept() -> None:
    model = SMALL.build()
    before = values(model)
    drawn = initialise(model, {"blocks.1.*.output.weight": Zeros(), "*.output.weight": Ones()})
    assert drawn == {"blocks.0.attention.output.weight": "ones", "blocks.1.attention.output.weight": "zeros"}
    after = values(model)
    assert bool((after["blocks.0.attention.output.weight"] == 1).all())
    assert not after["blocks.1.attention.output.weight"].any()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - drawn.keys())


def test_a_part_between_dots_is_a_pattern() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert initialise(model, {"bias": Zeros()}) == {"0.bias": "zeros", "1.bias": "zeros"}


def test_equal_seeds_give_equal_values_whatever_the_order_of_rules() -> None:
    rules: dict[str, Scheme] = {"query": Normal(std=1.0), "value": Uniform(bound=1.0)}
    models = [SMALL.build() for _ in range(3)]
    for model, seed, chosen in zip(models, (1, 1, 2), (rules, dict(reversed(rules.items())), rules), strict=True):
        torch.manual_seed(seed)
        initialise(model, chosen)
    first, second, other = (values(model)["blocks.0.attention.query.weight"] for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("pattern", ["embedding", "head"])
def test_tied_parameters_are_drawn_once_under_any_name(pattern: str) -> None:
    model = SMALL.build()
    torch.manual_seed(5)
    assert initialise(model, {pattern: Normal(std=1.0)}) == {"embedding.weight": "normal"}
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight.detach(), by_torch((17, 8), lambda x: init.normal_(x, std=1.0)))


def test_orthogonal_works_in_half_precision() -> None:
    model = nn.Linear(8, 8, bias=False).to(torch.bfloat16)
    initialise(model, {"weight": Orthogonal()})
    product = model.weight.detach().float() @ model.weight.detach().float().T
    torch.testing.assert_close(product, torch.eye(8), rtol=0, atol=0.02)


def test_the_meta_device_is_left_empty() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    assert initialise(model, {"weight": Kaiming()}) == {"weight": "kaiming"}
    assert model.weight.is_meta


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    model = SMALL.build()
    before = values(model)
    with pytest.raises(ModelwrightError, match="no parameter fits the pattern 'embeding'") as raised:
        initialise(model, {"query": Zeros(), "embeding": Normal()})
    assert raised.value.where == "initial"
    assert raised.value.remedy == "did you mean 'embedding'?"
    assert all(torch.equal(before[name], tensor) for name, tensor in values(model).items())


def test_a_pattern_behind_a_wider_one_is_refused() -> None:
    with pytest.raises(
        ModelwrightError, match=r"'query' decides nothing: an earlier one fits .*query.weight"
    ) as raised:
        initialise(SMALL.build(), {"*": Normal(), "query": Zeros()})
    assert "narrower pattern first" in raised.value.remedy


@pytest.mark.parametrize("scheme", [Kaiming(), Xavier(), Orthogonal()], ids=lambda scheme: type(scheme).__name__)
def test_a_scheme_that_does_not_fit_names_the_parameter(scheme: Scheme) -> None:
    with pytest.raises(ModelwrightError, match="at least two dims, not one of 1") as raised:
        initialise(nn.Linear(3, 4), {"*": scheme})
    assert raised.value.where == "initial: '*', parameter bias [4]"
    assert "zeros" in raised.value.remedy


@pytest.mark.parametrize(
    ("scheme", "fields"),
    [
        (Normal, {"std": -1.0}),
        (TruncatedNormal, {"std": math.nan}),
        (Uniform, {"bound": math.inf}),
        (Kaiming, {"mode": "fan"}),
        (Kaiming, {"nonlinearity": "gelu"}),
        (Kaiming, {"distribution": "cauchy"}),
        (Xavier, {"gain": -1.0}),
        (Xavier, {"distribution": "cauchy"}),
        (Orthogonal, {"gain": -1.0}),
        (Scaled, {"layers": 0}),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(scheme: Any, fields: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError, match=f"initial values .*{next(iter(fields))}"):
        scheme(**fields)
