from __future__ import annotations

import pytest
import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.optim import Optimizer
from modelwright.optim.adafactor import Adafactor
from modelwright.optim.adamw import AdamW
from modelwright.optim.lion import Lion
from modelwright.optim.muon import Muon
from modelwright.optim.offload import Offloaded
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.settings import apply_schedules, check_schedules, momentum_of, note_bases
from modelwright.optim.sgd import SGD


def noted(optimizer: Optimizer) -> Optimizer:
    note_bases(optimizer)
    return optimizer


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("offloaded", [False, True])
def test_each_setting_is_its_base_times_its_schedule(offloaded: bool) -> None:
    """On an optimizer of two parts, where one has a momentum and the other betas."""
    optimizer: Optimizer = Muon(lr=0.2, momentum=0.9, weight_decay=0.1, adamw_lr=0.4, adamw_betas=(0.8, 0.99)).build(
        layers()
    )
    optimizer = noted(Offloaded(optimizer) if offloaded else optimizer)
    for step in (3, 0, 2, 2):
        left = (4 - step) / 4
        rate = apply_schedules(
            optimizer, step, 4, learning_rate=Linear(), momentum=Linear(), weight_decay=Linear(floor=0.5)
        )
        hidden, rest = optimizer.param_groups
        assert rate == hidden["lr"] == 0.2 * left
        assert rest["lr"] == 0.4 * left
        assert hidden["momentum"] == 0.9 * left
        assert rest["betas"] == (0.8 * left, 0.99)
        assert hidden["weight_decay"] == pytest.approx(0.1 * (0.5 + 0.5 * left))
        assert rest["weight_decay"] == 0


def test_what_has_no_schedule_stays() -> None:
    optimizer = noted(AdamW(weight_decay=0.1).build(layers()))
    apply_schedules(optimizer, 1, 2, learning_rate=Linear())
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_a_scheduled_momentum_and_decay_take_effect() -> None:
    """Against the formula, with numbers of its own in each step."""
    model = nn.Linear(3, 2, bias=False)
    optimizer = noted(SGD(lr=0.1, momentum=0.8, weight_decay=0.5).build(model))
    expected, buffer = model.weight.detach().clone(), torch.zeros(2, 3)
    for step in range(4):
        left = (4 - step) / 4
        model.weight.grad = torch.full((2, 3), float(step + 1))
        apply_schedules(optimizer, step, 4, learning_rate=Constant(), momentum=Linear(), weight_decay=Linear())
        optimizer.step()
        buffer = 0.8 * left * buffer + (step + 1)
        expected = expected - 0.1 * (buffer + 0.5 * left * expected)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_a_schedule_of_what_is_not_there_is_refused() -> None:
    model = layers()
    for technique in (SGD(), Adafactor(), ScheduleFree()):
        with pytest.raises(ModelwrightError, match="no momentum") as refused:
            check_schedules(technique.build(model), momentum=Linear())
        assert refused.value.where == "momentum_schedule"
        assert "leave out momentum_schedule" in refused.value.remedy
    with pytest.raises(ModelwrightError, match="no weight decay") as refused:
        check_schedules(SGD(l2=0.1).build(model), weight_decay=Linear())
    assert refused.value.where == "weight_decay_schedule"
    for technique in (SGD(momentum=0.9, weight_decay=0.1), AdamW(), Lion(weight_decay=0.1)):
        check_schedules(technique.build(model), momentum=Linear(), weight_decay=Linear())
    check_schedules(SGD().build(model))


def test_a_falling_rate_under_an_average_is_told() -> None:
    """The default of recipes falls; whoever only names schedule-free should know."""
    events: list[Event] = []
    with listening(events.append):
        check_schedules(ScheduleFree().build(layers()), learning_rate=Constant(warmup=0.1))
        check_schedules(AdamW().build(layers()), learning_rate=Cosine())
        assert not events
        check_schedules(ScheduleFree().build(layers()), learning_rate=Cosine())
    assert [(event.kind, event.level) for event in events] == [("falling-rate-averaged", "warning")]


def test_bases_are_noted_once() -> None:
    """So that a second call, after a schedule has set lower values, does not take these for the bases."""
    optimizer = noted(AdamW(lr=0.1, weight_decay=0.2).build(layers()))
    apply_schedules(optimizer, 1, 2, learning_rate=Linear(), momentum=Linear(), weight_decay=Linear())
    note_bases(optimizer)
    apply_schedules(optimizer, 0, 2, learning_rate=Linear(), momentum=Linear(), weight_decay=Linear())
    group = optimizer.param_groups[0]
    assert (group["lr"], momentum_of(group), group["weight_decay"]) == (0.1, 0.9, 0.2)


def test_optimizers_of_others_get_their_base() -> None:
    optimizer = noted(torch.optim.RMSprop(layers().parameters(), lr=0.3, momentum=0.5))
    apply_schedules(optimizer, 1, 2, learning_rate=Linear(), momentum=Linear())
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.15, 0.25)
