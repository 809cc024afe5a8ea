from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Optimizer
from modelwright.optim.adamw import AdamW
from modelwright.optim.closure import check_closure_free
from modelwright.optim.joined import Joined
from modelwright.optim.muon import Muon
from modelwright.optim.offload import Offloaded
from modelwright.optim.rules import GroupRule, apply_rules
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.settings import apply_schedules, note_bases
from modelwright.optim.sgd import SGD


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
            "norm": nn.LayerNorm(4),
            "head": nn.Linear(4, 2),
            "frozen": nn.Linear(2, 2).requires_grad_(False),
        }
    )


def settings(optimizer: Optimizer, module: nn.Module, key: str) -> dict[str, object]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[p]: group[key] for group in optimizer.param_groups for p in group["params"]}


def test_the_first_rule_that_fits_counts() -> None:
    module = model()
    optimizer = AdamW(lr=1.0, weight_decay=0.1).build(module)
    rules = [
        GroupRule(names=("layers.0.*",), factor=0.25),
        GroupRule(names=("layers",), factor=0.5, weight_decay=0.3),
        GroupRule(names=("head",), lr=4.0, factor=0.5, momentum=0.5),
    ]
    apply_rules(optimizer, module, rules)
    assert settings(optimizer, module, "base_lr") == {
        "layers.0.weight": 0.25, "layers.0.bias": 0.25,
        "layers.1.weight": 0.5, "layers.1.bias": 0.5, "layers.2.weight": 0.5, "layers.2.bias": 0.5,
        "norm.weight": 1.0, "norm.bias": 1.0,
        "head.weight": 2.0, "head.bias": 2.0,
    }  # fmt: skip
    assert settings(optimizer, module, "lr") == settings(optimizer, module, "base_lr")
    decays = settings(optimizer, module, "weight_decay")
    assert (decays["layers.0.weight"], decays["layers.0.bias"]) == (0.1, 0.0)
    assert (decays["layers.1.weight"], decays["layers.1.bias"]) == (0.3, 0.3)  # as it says, the bias too
    betas = settings(optimizer, module, "betas")
    assert (betas["head.bias"], betas["norm.bias"]) == ((0.5, 0.999), (0.9, 0.999))
    assert all(group["fused"] for group in optimizer.param_groups)


def test_a_rule_gives_what_an_optimizer_of_its_own_would() -> None:
    """Each part trained by a separate optimizer with those settings, in the same steps."""
    module, twin = model(), model()
    optimizer = SGD(lr=0.1, momentum=0.9).build(module)
    apply_rules(optimizer, module, [GroupRule(names=("head",), factor=0.5, weight_decay=0.2, momentum=0.3)])
    head = torch.optim.SGD(twin["head"].parameters(), lr=0.05, momentum=0.3)  # type: ignore[index]
    rest = torch.optim.SGD([p for n, p in twin.named_parameters() if p.requires_grad and "head" not in n], 0.1, 0.9)
    for seed in range(3):
        for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                other.grad = parameter.grad.clone()
        with torch.no_grad():
            for parameter in twin["head"].parameters():  # type: ignore[index]
                parameter.mul_(1 - 0.05 * 0.2)
        for one in (optimizer, head, rest):
            one.step()
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("offloaded", [False, True])
def test_rules_reach_all_parts_of_a_joined_optimizer(offloaded: bool) -> None:
    module = model()
    optimizer: Optimizer = Muon(lr=0.2, adamw_lr=0.4).build(module)
    optimizer = Offloaded(optimizer) if offloaded else optimizer
    apply_rules(optimizer, module, [GroupRule(names=("layers.0.*", "head.*"), factor=0.5, momentum=0.7)])
    rates, number = settings(optimizer, module, "base_lr"), 10
    assert (rates["layers.0.weight"], rates["layers.1.weight"]) == (0.1, 0.2)
    assert (rates["layers.0.bias"], rates["head.weight"], rates["norm.bias"]) == (0.2, 0.2, 0.4)
    assert len(rates) == number
    assert isinstance(optimizer, Joined)
    assert optimizer.parts[0].param_groups[0]["momentum"] == 0.7


def test_rules_apply_to_optimizers_of_others_and_schedules_after_them() -> None:
    module = model()
    optimizer = torch.optim.RMSprop([p for p in module.parameters() if p.requires_grad], lr=0.2)
    apply_rules(optimizer, module, [GroupRule(names=("*bias",), lr=0.1)])
    note_bases(optimizer)
    apply_schedules(optimizer, 1, 2, learning_rate=Linear())
    rates = settings(optimizer, module, "lr")
    assert (rates["head.bias"], rates["head.weight"]) == (0.05, 0.1)


def test_without_rules_nothing_changes() -> None:
    module = model()
    optimizer = AdamW().build(module)
    before = [dict(group) for group in optimizer.param_groups]
    apply_rules(optimizer, module, [])
    assert all(old[key] == new[key] for old, new in zip(before, optimizer.param_groups, strict=True) for key in old)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    module = model()
    for name in ("haed.*", "frozen"):
        rules = [GroupRule(names=("norm",), factor=0.5), GroupRule(names=("layers", name), factor=0.5)]
        with pytest.raises(ModelwrightError, match=f"no name fits the pattern '{name}'".replace("*", r"\*")) as refused:
            apply_rules(AdamW().build(module), module, rules)
        assert refused.value.where == "groups[1].names"
        assert refused.value.remedy


def test_a_rule_behind_a_broader_one_is_refused() -> None:
    module = model()
    rules = [GroupRule(names=("layers",), factor=0.5), GroupRule(names=("layers.0.*",), factor=0.1)]
    with pytest.raises(ModelwrightError, match="belongs to an earlier one") as refused:
        apply_rules(AdamW().build(module), module, rules)
    assert refused.value.where == "groups[1].names"
    assert "narrower rule first" in refused.value.remedy


def test_a_setting_that_is_not_there_is_refused() -> None:
    module = model()
    parameters = [p for p in module.parameters() if p.requires_grad]
    for rule, where in (
        (GroupRule(names=("head",), weight_decay=0.1), "groups[0].weight_decay"),
        (GroupRule(names=("head",), momentum=0.1), "groups[0].momentum"),
    ):
        with pytest.raises(ModelwrightError, match="the optimizer has no") as refused:
            apply_rules(torch.optim.Rprop(parameters), module, [rule])
        assert refused.value.where == where


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ()}, "names a list of patterns"),
        ({"names": "head"}, "names a list of patterns"),
        ({"names": ("a",), "lr": -1.0}, "lr"),
        ({"names": ("a",), "factor": -1.0}, "factor"),
        ({"names": ("a",), "weight_decay": -1.0}, "weight_decay"),
        ({"names": ("a",), "momentum": 1.0}, "momentum"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        GroupRule(**wrong)  # type: ignore[arg-type]


def test_optimizers_that_need_a_closure_are_refused() -> None:
    parameters = list(nn.Linear(2, 2).parameters())
    lbfgs = torch.optim.LBFGS(parameters)
    for optimizer in (lbfgs, Joined(torch.optim.SGD(parameters), lbfgs)):
        with pytest.raises(ModelwrightError, match=r"LBFGS.step\(\) needs the argument 'closure'") as refused:
            check_closure_free(optimizer)
        assert refused.value.where == "optimizer"
        assert "adamw" in refused.value.remedy
    for kind in (torch.optim.Adam, torch.optim.Adagrad, torch.optim.NAdam, torch.optim.RAdam, torch.optim.ASGD):
        check_closure_free(kind(parameters))
    check_closure_free(Muon(adamw_names=()).build(nn.Linear(2, 2)))


def test_what_recipes_name_is_read_without_torch() -> None:
    """Reading a recipe must stay fast."""
    rooms = ("rules", "scaling", "schedules.building", "schedules.plateau", "schedules.wsd")
    code = (
        "".join(f"import modelwright.optim.{room}\n" for room in rooms) + "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
