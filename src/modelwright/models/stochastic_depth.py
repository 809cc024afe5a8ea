"""Stochastic depth: whole residual branches are left out at random in training."""

from __future__ import annotations

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError


class StochasticDepth(nn.Module):
    """Leave a residual branch out, sample by sample, in training: ``x + drop(branch(x))``.

    Huang et al. 2016 (arXiv:1603.09382), with each sample decided by itself, and branches that stay divided by
    their chance to stay, so that evaluation needs no other scale. It drops nothing in evaluation.

    Args:
        rate: chance that a sample's branch is left out; at least 0 and below 1.

    Raises:
        ModelwrightError: the rate is out of range.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_rate("stochastic depth", rate=rate)
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """``branch [batch, ...]`` -> the same shape and dtype."""
        if not self.training or self.rate == 0:
            return branch
        stays = 1 - self.rate
        kept = branch.new_empty(branch.size(0), *[1] * (branch.dim() - 1)).bernoulli_(stays)
        return branch * kept.div_(stays)

    def extra_repr(self) -> str:
        """The rate, for ``print(model)``."""
        return f"rate={self.rate}"


def rates(depth: int, last: float) -> list[float]:
    """The rates of ``depth`` residual blocks: growing linearly from ``last / depth`` to ``last``, as in the paper."""
    return [last * (block + 1) / depth for block in range(depth)]


def check_rate(model: str, **values: float) -> None:
    """Refuse what is no rate of dropping: at least 0, below 1.

    Raises:
        ModelwrightError: names the model and the field.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ModelwrightError(f"{model}: {name} is at least 0 and below 1, not {value}")
