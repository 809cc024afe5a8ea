"""The contract of averages of weights."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.optim import AVERAGES, Average, AverageTechnique
from modelwright.testing.contract import Contract

TOTAL = 12


class AverageContract(Contract):
    """An average follows the weights, can take their place and leave it again, and resumes bit for bit."""

    family: ClassVar[Family] = AVERAGES

    def test_it_follows_parameters_and_leaves_buffers(self, technique: AverageTechnique) -> None:
        """Names are kept, averages are at least float32, and lie between the smallest and the largest weight seen."""
        model = _model()
        average = technique.build(_tensors(model))
        seen = [{name: tensor.detach().clone() for name, tensor in _tensors(model).items()}]
        seen += [_train(model, average, step) for step in range(TOTAL)]
        found = average.tensors()
        assert found.keys() == _tensors(model).keys()
        assert torch.equal(found["1.running_mean"], model[1].running_mean)  # type: ignore[arg-type]
        assert average.number > 0
        for name in ("0.weight", "2.weight"):
            weights = torch.stack([weights[name] for weights in seen]).float()
            assert found[name].dtype == torch.float32
            assert bool(((found[name] >= weights.amin(0) - 1e-6) & (found[name] <= weights.amax(0) + 1e-6)).all())
            assert not torch.equal(found[name], weights[-1])

    def test_swapping_gives_the_bits_back(self, technique: AverageTechnique) -> None:
        """Inside, the live tensors hold the averages, rounded to their type; afterwards what they held before."""
        model = _model()
        average = technique.build(_tensors(model))
        for step in range(TOTAL):
            before = _train(model, average, step)
        with average.swapped():
            expected = {name: tensor.to(before[name].dtype) for name, tensor in average.tensors().items()}
            _assert_equal(_tensors(model), expected)
            assert not torch.equal(model[0].weight, before["0.weight"])  # type: ignore[arg-type]
            with pytest.raises(ModelwrightError), average.swapped():
                pass
            with pytest.raises(ModelwrightError):
                average.update(TOTAL, TOTAL)
        _assert_equal(_tensors(model), before)
        average.update(TOTAL, TOTAL)

    def test_swapping_back_happens_after_errors_too(self, technique: AverageTechnique) -> None:
        """An evaluation that fails must not leave the averages behind."""
        model = _model()
        average = technique.build(_tensors(model))
        for step in range(TOTAL):
            before = _train(model, average, step)
        with pytest.raises(ZeroDivisionError), average.swapped():
            raise ZeroDivisionError
        _assert_equal(_tensors(model), before)

    @pytest.mark.parametrize("cut", range(TOTAL + 1))
    def test_resumes_bit_for_bit(self, technique: AverageTechnique, cut: int) -> None:
        """State saved and loaded into a fresh average continues as if nothing had happened."""
        whole, model = technique.build(_tensors(first := _model())), _model()
        parts = technique.build(_tensors(model))
        for step in range(TOTAL):
            if step == cut:
                saved = {name: tensor.clone() for name, tensor in parts.state().items()}
                parts = technique.build(_tensors(model))
                parts.load(saved)
            _train(first, whole, step)
            _train(model, parts, step)
        assert whole.number == parts.number
        _assert_equal(whole.tensors(), parts.tensors())
        _assert_equal(whole.state(), parts.state())

    def test_state_of_another_model_is_refused(self, technique: AverageTechnique) -> None:
        """Other names, or other shapes."""
        model = _model()
        average = technique.build(_tensors(model))
        for step in range(TOTAL):
            _train(model, average, step)
        for other in (nn.Sequential(nn.Linear(3, 4)), nn.Linear(3, 4)):
            with pytest.raises(ModelwrightError, match="other parameters"):
                technique.build(_tensors(other)).load(average.state())
        wide = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        with pytest.raises(ModelwrightError, match="shape"):
            technique.build(_tensors(wide)).load(average.state())

    def test_a_model_without_parameters_is_refused(self, technique: AverageTechnique) -> None:
        """Detached tensors are no parameters: nobody can tell them from buffers."""
        with pytest.raises(ModelwrightError, match="no parameters to average"):
            technique.build(_model().state_dict())


def _model() -> nn.Sequential:
    """A layer in float32, a norm with buffers, a layer in bfloat16."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).to(torch.bfloat16))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict(keep_vars=True))


@torch.no_grad()
def _train(model: nn.Module, average: Average, step: int) -> dict[str, Tensor]:
    """Pretend to train: new weights that depend on the step only."""
    generator = torch.Generator().manual_seed(step)
    for tensor in _tensors(model).values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype), alpha=0.1)
        else:
            tensor.add_(1)
    average.update(step, TOTAL)
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


def _assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
