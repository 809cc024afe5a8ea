"""How a language model reads texts that grow: each time anew, or with a cache of what it read before."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """What the model sees of a text.

    Attributes:
        text: number of the text.
        begin: how many of its tokens are forgotten.
        tokens: the others; at least one.
    """

    text: int
    begin: int
    tokens: Sequence[int]


class Reader(Protocol):
    """Tells what may follow each text."""

    def __call__(self, views: Sequence[View]) -> Tensor:
        """Logits ``[views, vocabulary]`` of the token after each."""
        ...


def reader_of(model: nn.Module, capacity: int) -> Reader:
    """The fastest reader for ``model``: with a cache where it has one.

    Args:
        model: tokens ``[batch, time]`` -> logits ``[batch, time, vocabulary]``; one that has ``new_cache`` as
            :class:`~modelwright.models.gpt.GPTModule`; or a causal language model of transformers.
        capacity: tokens in a view at most.
    """
    if hasattr(model, "new_cache"):
        return Recalling(_Own(model, capacity), _device(model), capacity)
    if _is_of_transformers(model):
        return Recalling(_OfTransformers(model), _device(model), capacity)
    return Anew(model)


class Anew:
    """Reads every view from its first token; views of equal length together."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, views: Sequence[View]) -> Tensor:
        """See :class:`Reader`."""
        last: dict[int, Tensor] = {}
        for length in dict.fromkeys(len(view.tokens) for view in views):
            places = [place for place, view in enumerate(views) if len(view.tokens) == length]
            tokens = torch.tensor([list(views[place].tokens) for place in places], device=_device(self._model))
            last |= zip(places, _logits(self._model(tokens))[:, -1], strict=True)
        return torch.stack([last[place] for place in range(len(views))])


class Decoding:
    """Reads the targets of an encoder-decoder; each source is read once.

    Args:
        model: has ``encode(inputs, input_mask)``, ``decode(memory, input_mask, decoder_inputs)`` and ``head``, as
            :class:`~modelwright.models.sequence_to_sequence.SequenceToSequenceModule`.
        sources: tokens of the source of each text.
    """

    def __init__(self, model: Any, sources: Sequence[Sequence[int]]) -> None:
        self._model, self._sources = model, sources
        self._encoded: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, views: Sequence[View]) -> Tensor:
        """See :class:`Reader`."""
        device = _device(self._model)
        if self._encoded is None:
            self._encoded = self._encode(device)
        memory, mask = self._encoded
        rows = torch.tensor([view.text for view in views], device=device)
        longest = max(len(view.tokens) for view in views)
        # What stands behind a position is not seen from it: targets are padded on the right.
        padded = [[*view.tokens] + [0] * (longest - len(view.tokens)) for view in views]
        features = self._model.decode(memory[rows], mask[rows], torch.tensor(padded, device=device))
        ends = torch.tensor([len(view.tokens) - 1 for view in views], device=device)
        last: Tensor = self._model.head(features[torch.arange(len(views), device=device), ends])
        return last

    def _encode(self, device: torch.device) -> tuple[Tensor, Tensor]:
        longest = max(len(source) for source in self._sources)
        padded = [[*source] + [0] * (longest - len(source)) for source in self._sources]
        lengths = torch.tensor([len(source) for source in self._sources], device=device)
        mask = torch.arange(longest, device=device) < lengths.unsqueeze(1)
        return self._model.encode(torch.tensor(padded, device=device), mask), mask


class Engine(Protocol):
    """A model with a cache."""

    def begin(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Read ``tokens [batch, time]``, with ``padding [batch]`` on the left; logits after the last."""
        ...

    def go_on(self, tokens: Tensor) -> Tensor:
        """Read one more token each, ``[batch, 1]``; logits after it."""
        ...


class Recalling:
    """Reads only what is new in the views, as long as nothing of them is forgotten and most of them go on.

    Args:
        engine: the model with its cache.
        device: where it is.
        capacity: tokens in a view at most.
    """

    def __init__(self, engine: Engine, device: torch.device, capacity: int) -> None:
        self._engine, self._device, self._capacity = engine, device, capacity
        self._read: dict[int, tuple[int, int]] = {}  # text -> its begin and end when last seen
        self._columns = 0

    @torch.no_grad()
    def __call__(self, views: Sequence[View]) -> Tensor:
        """See :class:`Reader`."""
        ends = {view.text: (view.begin, view.begin + len(view.tokens)) for view in views}
        if not self._follow(ends):
            self._read, self._columns = ends, max(len(view.tokens) for view in views)
            return self._engine.begin(*_padded(views, self._device))
        newest = {view.text: view.tokens[-1] for view in views}
        tokens = [[newest.get(text, 0)] for text in self._read]
        logits = self._engine.go_on(torch.tensor(tokens, device=self._device))
        places = [place for place, text in enumerate(self._read) if text in newest]
        self._read |= ends
        self._columns += 1
        return logits if len(places) == len(tokens) else logits[places]

    def _follow(self, ends: dict[int, tuple[int, int]]) -> bool:
        """Whether each view is one that was read, by one token longer; half of them at least are still there."""
        grown = all(text in self._read and (begin, end - 1) == self._read[text] for text, (begin, end) in ends.items())
        return grown and 2 * len(ends) > len(self._read) and self._columns < self._capacity


class _Own:
    """A model of ours with its cache."""

    def __init__(self, model: Any, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self._cache: Any = None

    def begin(self, tokens: Tensor, padding: Tensor) -> Tensor:
        self._cache = self._model.new_cache(padding, self._capacity)
        return self.go_on(tokens)

    def go_on(self, tokens: Tensor) -> Tensor:
        features = self._model.features(tokens, self._cache)
        last: Tensor = self._model.head(features[:, -1])
        return last


class _OfTransformers:
    """A causal language model of transformers with the cache it makes itself."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._accepted = inspect.signature(model.forward).parameters
        self._cache: Any = None

    def begin(self, tokens: Tensor, padding: Tensor) -> Tensor:
        columns = torch.arange(tokens.size(1), device=tokens.device)
        self._seen = (columns >= padding.unsqueeze(1)).long()
        self._cache = None
        return self._forward(tokens, (columns - padding.unsqueeze(1)).clamp(min=0))

    def go_on(self, tokens: Tensor) -> Tensor:
        self._seen = torch.cat((self._seen, torch.ones_like(tokens)), dim=1)
        return self._forward(tokens, self._seen.sum(1, keepdim=True) - 1)

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        optional = {"position_ids": positions, "logits_to_keep": 1}
        outputs = self._model(
            input_ids=tokens,
            attention_mask=self._seen,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._accepted},
        )
        self._cache = outputs.past_key_values
        last: Tensor = outputs.logits[:, -1]
        return last


def _is_of_transformers(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    if not hasattr(model, "prepare_inputs_for_generation") or getattr(config, "is_encoder_decoder", True):
        return False
    return {"past_key_values", "attention_mask", "use_cache"} <= inspect.signature(model.forward).parameters.keys()


def _padded(views: Sequence[View], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(view.tokens) for view in views)
    padding = [longest - len(view.tokens) for view in views]
    rows = [[0] * missing + list(view.tokens) for missing, view in zip(padding, views, strict=True)]
    return torch.tensor(rows, device=device), torch.tensor(padding, device=device)


def _logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
