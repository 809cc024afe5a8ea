"""Continue a sequence of tokens with a language model, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating


def sample(
    model: nn.Module,
    tokens: Sequence[int],
    *,
    length: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield up to ``length`` tokens that continue ``tokens``.

    The same seed gives the same tokens on the same machine. The model is in evaluation mode while it computes
    and each module returns to its former mode when the iterator ends.

    Args:
        model: tokens ``[1, time]`` -> logits ``[1, time, vocabulary]``.
        tokens: the beginning; at least one token.
        length: tokens to make at most.
        context: tokens the model sees at most; earlier ones are forgotten.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from the likeliest ``top_k`` only.
        seed: of the draws.
        stop: a token that ends the text; it is not yielded.

    Raises:
        ModelwrightError: an argument is out of range.
    """
    if len(tokens) == 0:
        raise ModelwrightError("there is no token to continue", remedy="begin with the end-of-text token")
    if length < 0 or context < 1 or temperature < 0 or (top_k is not None and top_k < 1):
        raise ModelwrightError(
            "sampling needs length >= 0, context >= 1, temperature >= 0 and top_k >= 1, not "
            f"{length=}, {context=}, {temperature=}, {top_k=}"
        )
    text = [int(token) for token in tokens]
    return _continue(model, text, length, context, _Choice(temperature, top_k, seed), stop)


class _Choice:
    """Draw a token from logits ``[vocabulary]``."""

    def __init__(self, temperature: float, top_k: int | None, seed: int) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        scaled = logits.double().cpu() / self.temperature
        if self.top_k is not None and self.top_k < scaled.numel():
            smallest = scaled.topk(self.top_k).values[-1]
            scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
        return int(torch.multinomial(scaled.softmax(0), 1, generator=self.generator))


def _continue(
    model: nn.Module, text: list[int], length: int, context: int, choose: _Choice, stop: int | None
) -> Iterator[int]:
    with evaluating(model):
        for _ in range(length):
            token = choose(_last_logits(model.eval(), text[-context:]))
            if token == stop:
                return
            text.append(token)
            yield token


@torch.no_grad()
def _last_logits(model: nn.Module, tokens: list[int]) -> Tensor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    logits: Tensor = model(torch.tensor([tokens], device=device))
    return logits[0, -1]
