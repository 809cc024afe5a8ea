from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.writing.sampling import sample

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.2]))


class Fixed(nn.Module):
    """Draws are independent of the text; records what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(inputs[0].tolist())
        return LOGITS.expand(1, inputs.size(1), 3)


class Counting(nn.Module):
    """After token t comes t + 1, modulo 5."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot((inputs + 1) % 5, 5).double()


def test_temperature_0_takes_the_likeliest_and_stops() -> None:
    assert list(sample(Counting(), [0], length=7, context=4, temperature=0)) == [1, 2, 3, 4, 0, 1, 2]
    assert list(sample(Counting(), [0], length=7, context=4, temperature=0, stop=3)) == [1, 2]


def test_draws_follow_the_distribution_and_the_seed() -> None:
    drawn = list(sample(Fixed(), [0], length=4000, context=2, temperature=1.0, seed=7))
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / len(drawn)
    torch.testing.assert_close(shares, LOGITS.exp(), atol=0.03, rtol=0)
    assert drawn[:50] == list(sample(Fixed(), [0], length=50, context=2, temperature=1.0, seed=7))
    assert drawn[:50] != list(sample(Fixed(), [0], length=50, context=2, temperature=1.0, seed=8))


def test_temperature_sharpens() -> None:
    drawn = list(sample(Fixed(), [0], length=4000, context=2, temperature=0.5))
    squares = LOGITS.exp() ** 2
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / len(drawn)
    torch.testing.assert_close(shares, squares / squares.sum(), atol=0.03, rtol=0)


def test_top_k_leaves_the_likeliest() -> None:
    assert set(sample(Fixed(), [0], length=200, context=2, temperature=1.0, top_k=2)) == {0, 1}
    assert set(sample(Fixed(), [0], length=20, context=2, temperature=1.0, top_k=1)) == {0}


def test_the_model_sees_the_last_tokens_and_gets_its_mode_back() -> None:
    model = Fixed().train()
    text = [2, 1, 0]
    made = list(sample(model, text, length=3, context=4))
    whole = text + made
    assert model.seen == [whole[:3], whole[:4], whole[1:5]]
    assert model.training
    tokens = sample(model, text, length=9, context=4)
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert model.training


@pytest.mark.parametrize(
    "settings", [{"length": -1}, {"context": 0}, {"temperature": -1.0}, {"top_k": 0}, {"tokens": []}]
)
def test_wrong_arguments_are_refused_at_once(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError):
        sample(Fixed(), **{"tokens": [0], "length": 1, "context": 1, **settings})  # type: ignore[arg-type]


def test_frozen_modules_keep_their_mode() -> None:
    model = nn.Sequential(Counting(), nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    assert list(sample(model, [0], length=2, context=2, temperature=0)) == [1, 2]
    assert [module.training for module in model.modules()] == [True, True, False, True]
