"""Continue texts with a language model, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating
from modelwright.models.writing.drawing import Sampling, draw, penalised, seed_of
from modelwright.models.writing.reading import Reader, View, reader_of

FORGOTTEN = 4
"""When a text outgrows the context, this part of the context (a quarter) is forgotten at once."""


@dataclass
class Continuation:
    """A text that is being continued.

    Attributes:
        prompt: its tokens in the beginning; at least one.
        number: of the text among all; its draws depend on this and on the seed.
        tokens: what followed so far.
        finish: why nothing follows any more: ``length`` tokens were made, the ``end`` of the text came, or
            whoever reads it said ``stop``. Empty while it goes on.
    """

    prompt: Sequence[int]
    number: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: Literal["", "length", "end", "stop"] = ""

    def __post_init__(self) -> None:
        if len(self.prompt) == 0:
            raise ModelwrightError("there is no token to continue", remedy="begin with the end-of-text token")


def sample(
    model: nn.Module,
    tokens: Sequence[int],
    *,
    length: int,
    context: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield up to ``length`` tokens that continue ``tokens``; see :func:`continue_texts`.

    Args:
        model: tokens ``[1, time]`` -> logits ``[1, time, vocabulary]``.
        tokens: the beginning; at least one token.
        length, temperature, top_k, top_p, min_p, repetition_penalty, seed: see :class:`Sampling`.
        context: tokens the model sees at most.
        stop: a token that ends the text; it is not yielded.

    Raises:
        ModelwrightError: an argument is out of range.
    """
    sampling = Sampling(
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    text = Continuation([int(token) for token in tokens])
    rounds = continue_texts(model, [text], sampling, context=context, end=stop)
    return (text.tokens[-1] for _ in rounds)


def continue_texts(
    model: nn.Module,
    texts: Sequence[Continuation],
    sampling: Sampling,
    *,
    context: int,
    end: int | None = None,
    reader: Reader | None = None,
) -> Iterator[Continuation]:
    """Continue a batch of texts; yield a text each time that a token was added to it.

    Who reads it may set its ``finish`` to ``stop``; nothing more is then added. The same seed gives the same
    tokens on the same machine, whatever else is in the batch (up to the rounding of larger matrix products).
    The model is in evaluation mode while it computes and each module returns to its former mode when the
    iterator ends.

    The model sees at most ``context`` tokens. A text that outgrows it loses its oldest quarter of a context at
    once, and what is left is read anew, with positions from 0 on, as in training: so a model with a cache says
    exactly what it says without.

    Args:
        model: see :func:`~modelwright.models.writing.reading.reader_of`.
        texts: what to continue.
        sampling: how.
        context: tokens the model sees at most.
        end: a token that ends a text; it is not added.
        reader: how the model reads; ``None`` for the fastest way it offers.

    Raises:
        ModelwrightError: the context is too small.
    """
    if context < 1:
        raise ModelwrightError(f"context is at least 1, not {context}", where="context")
    reader = reader or reader_of(model, context)
    return _rounds(model, texts, sampling, context, end, reader)


def _rounds(
    model: nn.Module,
    texts: Sequence[Continuation],
    sampling: Sampling,
    context: int,
    end: int | None,
    reader: Reader,
) -> Iterator[Continuation]:
    generators = [torch.Generator().manual_seed(seed_of(sampling.seed, text.number)) for text in texts]
    _settle(texts, sampling.length)
    with evaluating(model):
        while going := [place for place, text in enumerate(texts) if not text.finish]:
            if model.training:
                model.eval()
            views = [_view(place, texts[place], context) for place in going]
            logits = penalised(reader(views), (view.tokens for view in views), sampling.repetition_penalty)
            drawn = draw(logits, sampling, [generators[place] for place in going])
            for place, token in zip(going, drawn, strict=True):
                if token == end:
                    texts[place].finish = "end"
                    continue
                texts[place].tokens.append(token)
                yield texts[place]
            _settle(texts, sampling.length)


def _settle(texts: Sequence[Continuation], length: int) -> None:
    for text in texts:
        if not text.finish and len(text.tokens) >= length:
            text.finish = "length"


def _view(number: int, text: Continuation, context: int) -> View:
    """What is not forgotten depends on the text's own length only."""
    whole = [*text.prompt, *text.tokens]
    step = max(1, context // FORGOTTEN)
    begin = step * max(0, -(-(len(whole) - context) // step))
    return View(number, begin, whole[begin:])
