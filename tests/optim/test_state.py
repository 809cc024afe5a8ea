from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.optim import OPTIMIZERS, Optimizer
from modelwright.optim.adamw import AdamW
from modelwright.optim.groups import trainable
from modelwright.optim.muon import Muon
from modelwright.optim.sgd import SGD
from modelwright.optim.state import changed_settings, group_settings, load_optimizer_state, optimizer_state


def names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def trained(technique: AdamW | SGD | Muon) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = technique.build(model)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer_state(optimizer, names(model))


def test_state_is_named_by_parameter_and_goes_through_a_file(tmp_path: Path) -> None:
    model, state = trained(Muon())
    assert state.keys() == {
        "0.weight/momentum_buffer", "1.weight/momentum_buffer",
        "0.bias/step", "0.bias/exp_avg", "0.bias/exp_avg_sq",
        "1.bias/step", "1.bias/exp_avg", "1.bias/exp_avg_sq",
    }  # fmt: skip
    save_file(state, tmp_path / "state.safetensors")
    fresh = Muon().build(model)
    load_optimizer_state(fresh, names(model), load_file(tmp_path / "state.safetensors"))
    again = optimizer_state(fresh, names(model))
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_the_loaded_state_is_a_copy() -> None:
    model, state = trained(AdamW())
    fresh = AdamW().build(model)
    load_optimizer_state(fresh, names(model), state)
    state["0.weight/exp_avg"].fill_(7)
    assert not optimizer_state(fresh, names(model))["0.weight/exp_avg"].eq(7).any()


def test_plain_sgd_has_no_state() -> None:
    model, state = trained(SGD())
    assert state == {}
    load_optimizer_state(SGD().build(model), names(model), state)


def test_state_of_another_optimizer_is_refused() -> None:
    model, state = trained(AdamW())
    with pytest.raises(ModelwrightError, match="another optimizer than DecayingSGD: it has exp_avg"):
        load_optimizer_state(SGD(momentum=0.9).build(model), names(model), state)


def test_state_of_another_model_is_refused() -> None:
    _, state = trained(AdamW())
    wide = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    with pytest.raises(ModelwrightError, match=r"shape \[4, 3\], the parameter \[5, 3\]"):
        load_optimizer_state(AdamW().build(wide), names(wide), state)
    short = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ModelwrightError, match=r"not trained here: 1\.bias, 1\.weight"):
        load_optimizer_state(AdamW().build(short), names(short), state)


def test_a_parameter_that_is_not_in_the_model_is_refused() -> None:
    model, _ = trained(AdamW())
    optimizer = AdamW().build(nn.Linear(2, 2))
    with pytest.raises(ModelwrightError, match="not in the model"):
        load_optimizer_state(optimizer, names(model), {})


def test_parameters_without_saved_state_are_told() -> None:
    model, state = trained(AdamW())
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("1.bias")}
    events: list[Event] = []
    with listening(events.append):
        load_optimizer_state(AdamW().build(model), names(model), partial)
    assert [event.details for event in events] == [{"parameters": ["1.bias"]}]


class Counting(torch.optim.Optimizer):
    """An optimizer of somebody else's, with Python numbers in its state."""

    def __init__(self, parameters: list[Tensor], extra: object = 0.5) -> None:
        super().__init__(parameters, {"lr": 1.0})
        for parameter in parameters:
            self.state[parameter] = {"calls": 3, "share": extra}

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        pass


def test_python_numbers_come_back_as_python_numbers() -> None:
    model = nn.Linear(2, 2, bias=False)
    state = optimizer_state(Counting([model.weight]), names(model))
    fresh = Counting([model.weight])
    fresh.state.clear()
    load_optimizer_state(fresh, names(model), state)
    assert fresh.state[model.weight] == {"calls": 3, "share": 0.5}
    assert [type(value) for value in fresh.state[model.weight].values()] == [int, float]


def test_state_that_needs_pickle_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    with pytest.raises(ModelwrightError, match="keeps a list"):
        optimizer_state(Counting([model.weight], extra=[1]), names(model))


def test_trainable_names_tied_parameters_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    model[1].weight = model[0].weight
    assert list(trainable(model)) == ["0.weight", "0.bias", "1.bias"]


class CountingInGroups(torch.optim.Optimizer):
    """Like schedule-free optimizers, it counts in its groups."""

    def __init__(self, parameters: list[Tensor], extra: object = ()) -> None:
        super().__init__([{"params": parameters, "base_lr": 1.0}], {"lr": 1.0, "k": 0, "warm": False, "extra": extra})
        self.param_groups[0]["seen"] = torch.zeros(2)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        group["k"], group["warm"], group["weight_sum"], group["lr"] = group["k"] + 1, True, 0.25, 0.5
        group["seen"] += 1


def test_what_an_optimizer_changes_in_its_groups_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer, fresh = CountingInGroups([model.weight]), CountingInGroups([model.weight])
    built = group_settings(optimizer)
    assert changed_settings(optimizer, built) == {}
    optimizer.step()
    optimizer.step()
    save_file(changed_settings(optimizer, built), tmp_path / "state.safetensors")
    saved = load_file(tmp_path / "state.safetensors")
    assert saved.keys() == {f"param_groups/0/{key}" for key in ("k:int", "warm:bool", "weight_sum:float", "seen")}
    load_optimizer_state(fresh, names(model), saved)
    found = fresh.param_groups[0]
    assert (found["k"], found["warm"], found["weight_sum"], found["seen"].tolist()) == (2, True, 0.25, [2.0, 2.0])
    assert found["lr"] == 1.0  # the schedule's
    assert changed_settings(fresh, built).keys() == saved.keys()  # saved again after a resumption


def test_groups_that_need_pickle_or_are_not_there_are_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer = CountingInGroups([model.weight], extra=[1])
    built = group_settings(optimizer)
    optimizer.param_groups[0]["extra"].append(2)
    with pytest.raises(ModelwrightError, match="keeps a list"):
        changed_settings(optimizer, built)
    with pytest.raises(ModelwrightError, match="has a group 1"):
        load_optimizer_state(optimizer, names(model), {"param_groups/1/k:int": torch.tensor(3)})


@pytest.mark.parametrize("name", OPTIMIZERS.listing)
def test_our_optimizers_change_nothing_in_their_groups(name: str) -> None:
    technique = OPTIMIZERS.resolve(name)()
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = technique.build(model)
    built = group_settings(optimizer)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    assert changed_settings(optimizer, built) == {}


def stepped(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        model.zero_grad(set_to_none=True)
        model(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()


TORCHS = [
    torch.optim.Adadelta, torch.optim.Adafactor, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW,
    torch.optim.Adamax, torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop,
    torch.optim.Rprop, torch.optim.SGD,
]  # fmt: skip


@pytest.mark.parametrize("kind", TORCHS, ids=lambda kind: kind.__name__)
def test_torchs_optimizers_resume_bit_for_bit(kind: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.01)
    built = group_settings(optimizer)
    stepped(model, optimizer, range(3))
    saved = {**optimizer_state(optimizer, names(model)), **changed_settings(optimizer, built)}
    save_file(saved, tmp_path / "state.safetensors")
    twin = deepcopy(model)
    resumed = kind(twin.parameters(), lr=0.01)
    load_optimizer_state(resumed, names(twin), load_file(tmp_path / "state.safetensors"))
    stepped(model, optimizer, range(3, 6))
    stepped(twin, resumed, range(3, 6))
    assert all(torch.equal(first, second) for first, second in zip(model.parameters(), twin.parameters(), strict=True))
    fresh = deepcopy(model)
    stepped(fresh, kind(fresh.parameters(), lr=0.01), range(3, 6))
    assert not torch.equal(fresh[0].weight, twin[0].weight)


def test_what_schedules_set_is_not_saved() -> None:
    model = nn.Linear(2, 2)
    optimizer = AdamW().build(model)
    built = group_settings(optimizer)
    for group in optimizer.param_groups:
        group.update(lr=0.5, betas=(0.5, 0.9), weight_decay=0.3, base_momentum=0.9, base_weight_decay=0.1)
    assert changed_settings(optimizer, built) == {}


def test_state_of_a_single_number_stays_with_its_parameter() -> None:
    """Only torch's own step counters belong on the CPU; on the meta device the difference shows."""
    number = nn.Parameter(torch.zeros((), device="meta"))
    optimizer = torch.optim.Adam([number])
    saved = {"n/step": torch.tensor(3.0), "n/exp_avg": torch.tensor(1.0), "n/exp_avg_sq": torch.tensor(1.0)}
    load_optimizer_state(optimizer, {number: "n"}, saved)
    devices = {key: value.device.type for key, value in optimizer.state[number].items()}
    assert devices == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}
