"""From logits to a token: what may be drawn, and the draw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is continued. Filters act in the order in which they stand here.

    Attributes:
        length: tokens to make at most.
        repetition_penalty: logits of tokens that the model has in view are divided by it where they are
            positive and multiplied where not (Keskar et al. 2019, arXiv:1909.05858); 1 changes nothing.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from the likeliest ``top_k`` only.
        top_p: draw from the fewest of the likeliest that have this probability together (nucleus sampling,
            Holtzman et al. 2019, arXiv:1904.09751).
        min_p: leave out what is less likely than this part of the likeliest (Nguyen et al. 2024,
            arXiv:2407.01082).
        seed: of the draws. Each text has draws of its own, so that they do not depend on what else is in a
            batch.
    """

    length: int = 200
    repetition_penalty: float = 1.0
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check("length", self.length >= 0, "at least 0", self.length)
        _check("repetition_penalty", self.repetition_penalty > 0, "above 0", self.repetition_penalty)
        _check("temperature", self.temperature >= 0, "at least 0", self.temperature)
        _check("top_k", self.top_k is None or self.top_k >= 1, "at least 1", self.top_k)
        _check("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1", self.top_p)
        _check("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1", self.min_p)


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What may be drawn, likeliest first.

    Args:
        logits: ``[rows, vocabulary]``.
        sampling: its temperature is above 0.

    Returns:
        Probabilities ``[rows, candidates]`` in float64, 0 for what is filtered out, and the tokens they are of.
    """
    vocabulary = logits.size(-1)
    if sampling.top_k is not None and sampling.top_k < vocabulary:
        values, tokens = logits.double().topk(sampling.top_k)
    else:
        values, tokens = logits.double().sort(descending=True, stable=True)
    shares = (values / sampling.temperature).softmax(-1)
    stays = torch.ones_like(shares, dtype=torch.bool)
    if sampling.top_p is not None and sampling.top_p < 1:
        stays &= shares.cumsum(-1) - shares < sampling.top_p
    if sampling.min_p is not None:
        stays &= shares >= sampling.min_p * shares[..., :1]
    kept = shares.masked_fill(~stays, 0.0)
    return kept / kept.sum(-1, keepdim=True), tokens


def draw(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> list[int]:
    """A token for each row of ``logits [rows, vocabulary]``, with the row's own generator (on the CPU).

    Raises:
        ModelwrightError: logits are no numbers.
    """
    if bool(logits.isnan().any()):
        raise ModelwrightError("the model's logits are no numbers (nan)", remedy="choose other weights: these are lost")
    if sampling.temperature == 0:
        return list(map(int, logits.argmax(-1).tolist()))
    shares, tokens = candidates(logits, sampling)
    points = torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    sums = shares.cumsum(-1)
    # Below the sum of all, so that nothing is drawn that was filtered out.
    places = torch.searchsorted(sums, points.to(sums.device) * sums[..., -1:], right=True)
    return list(map(int, tokens.gather(-1, places).squeeze(-1).tolist()))


def penalised(logits: Tensor, texts: Iterable[Iterable[int]], penalty: float) -> Tensor:
    """``logits [rows, vocabulary]`` with those of the tokens in each row's text made smaller."""
    if penalty == 1:
        return logits
    result = logits.clone()
    for row, text in zip(result, texts, strict=True):
        seen = torch.tensor(sorted(set(text)), device=row.device)
        row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    return result


def seed_of(seed: int, text: int) -> int:
    """The seed of the draws for text number ``text``; the first has ``seed`` itself."""
    if text == 0:
        return seed
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check(name: str, fits: bool, range_: str, value: object) -> None:
    if not fits:
        raise ModelwrightError(f"{name} is {range_}, not {value}", where=name)
