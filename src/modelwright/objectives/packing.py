"""Several documents in one window: how a model is told of their borders, and the proof that it heeds them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import argument_names, logits_of

_LONGEST = 8  # tokens of each of two documents in a trial
_LEAK = 0.01  # of what the first document changes in the second where they are joined
_heeding: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def borders(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments, by name, that tell ``model`` where the documents of a batch begin; none for one without ``segments``.

    A model that takes an argument ``segments [batch, time]`` gets that, and ``positions [batch, time]`` where it takes
    and the batch has them. One that takes ``position_ids``, as those of ``transformers`` do, gets positions that begin
    anew in each segment; whether it then keeps documents apart is tried on a few tokens before it is first used so.

    Raises:
        ModelwrightError: the model cannot be told, or does not heed it.
    """
    if "segments" not in batch:
        return {}
    names = argument_names(model)
    if "segments" in names:
        return {name: batch[name] for name in ("segments", "positions") if name in names and name in batch}
    if "position_ids" not in names:
        raise _mixing(model, "its forward takes neither 'segments' nor 'position_ids'")
    segments = batch["segments"]
    if segments.is_meta:  # shapes are the same without, and transformers would look at values
        return _uncached(model)
    if reason := _heeds(model, segments):
        raise _mixing(model, reason)
    return _told(model, segments)


def restarted(segments: Tensor) -> Tensor:
    """Positions that begin at 0 in each segment, int64 in the shape of ``segments [batch, time]``."""
    columns = torch.arange(segments.shape[1], device=segments.device)
    begins = torch.zeros_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return columns - torch.where(begins, columns, 0).cummax(dim=1).values


def _told(model: nn.Module, segments: Tensor) -> dict[str, Any]:
    return {"position_ids": restarted(segments), **_uncached(model)}


def _uncached(model: nn.Module) -> dict[str, Any]:
    """Where keys and values are kept, transformers does not ask whether positions begin anew."""
    return {"use_cache": False} if "use_cache" in argument_names(model) else {}


def _mixing(model: nn.Module, reason: str) -> ModelwrightError:
    return ModelwrightError(
        f"the data keeps documents apart, and the model {type(model).__name__} cannot: {reason}",
        where="model",
        remedy="set data.documents to joined; or give the model a forward(inputs, segments, positions) that attends "
        "within equal numbers of segments",
    )


def _heeds(model: nn.Module, segments: Tensor) -> str:
    """Why not; empty if it does."""
    if model not in _heeding:
        length = min(_LONGEST, max(1, segments.shape[1] // 2))  # no longer than what the model is made for
        _heeding[model] = _tried(model, torch.arange(2, device=segments.device).repeat_interleave(length).expand(2, -1))
    return _heeding[model]


def _tried(model: nn.Module, segments: Tensor) -> str:
    """The same by trial, with ``segments [1, time]`` of two documents."""
    try:
        with _watching(model):
            joined, apart = _changes(model, segments)
            if joined == 0:  # nothing is read at all, as where the branches of a fresh model begin at zero
                with _stirred(model):
                    joined, apart = _changes(model, segments)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
        return f"given position_ids that begin anew, it fails: {type(error).__name__}: {error}".splitlines()[0]
    if apart <= _LEAK * joined:
        return ""
    return "given position_ids that begin anew, its outputs still depend on the document before"


def _changes(model: nn.Module, segments: Tensor) -> tuple[float, float]:
    """Those of documents that are joined, and of those that are to be kept apart."""
    return _change(model, segments, _uncached(model)), _change(model, segments, _told(model, segments))


def _change(model: nn.Module, segments: Tensor, named: Mapping[str, Any]) -> float:
    """How much the outputs of the second document change with the tokens of the first."""
    tokens, first = segments.cumsum(1) % 2, (segments == 0).long()
    before, after = (logits_of(model(each, **named))[segments == 1] for each in (tokens, tokens + first))
    return float((after - before).abs().max())


@contextmanager
def _watching(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout or compiling; the modes of all modules are put back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _stirred(model: nn.Module) -> Iterator[None]:
    """With other numbers in matrices that are all zero, which are put back; nothing random is drawn."""
    empty = [p for p in model.parameters() if p.is_floating_point() and not p.any()]
    kept = [parameter.clone() for parameter in empty]
    try:
        for parameter in empty:
            parameter.copy_(torch.arange(1, parameter.numel() + 1, device=parameter.device).sin().view_as(parameter))
        yield
    finally:
        for parameter, before in zip(empty, kept, strict=True):
            parameter.copy_(before)
