"""Run a model short of its head, where that head is a plain linear layer and the last thing the model does."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.objectives.calling import logits_of
from modelwright.objectives.cross_entropy import transformed
from modelwright.objectives.features import Features
from modelwright.objectives.linear_cross_entropy import LinearHead

Logits = Literal["auto", "chunked", "full"]
"""How the logits of a large vocabulary are treated: a field of objectives of language models."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_suitable: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_unsuitable: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_told: weakref.WeakSet[nn.Module] = weakref.WeakSet()
# One for each head, ever the same: a compiled model would be compiled anew for another.
_identities: weakref.WeakKeyDictionary[nn.Module, _Identity] = weakref.WeakKeyDictionary()


def check_logits_field(logits: str, chunk: int | None) -> None:
    """Refuse values that the fields ``logits`` and ``chunk`` do not know."""
    if logits not in ("auto", "chunked", "full"):
        raise ModelwrightError(f"logits is auto, chunked or full, not {logits!r}")
    if chunk is not None and (chunk < 1 or logits == "full"):
        wrong = "does not go with logits: full" if logits == "full" else f"is at least 1 byte, not {chunk}"
        raise ModelwrightError(f"chunk {wrong}", remedy="leave it out, and it suits the device")


def run(
    model: nn.Module,
    *inputs: Tensor,
    logits: Logits = "auto",
    chunk: int | None = None,
    named: Mapping[str, Any] | None = None,
) -> Features | Tensor:
    """``model(*inputs, **named)``, as :class:`Features` where that is wanted and possible, else as logits.

    The model is called as ever, with an identity in the place of its head: what comes out must be the very tensor
    that went into that. So a model that does more behind its head, or has hooks on it, keeps its full logits.

    Raises:
        ModelwrightError: ``logits`` is ``chunked`` and the model's head cannot be taken apart, with the reason.
    """
    named = named or {}
    if logits == "full" or transformed():
        return logits_of(model(*inputs, **named))  # type: ignore[no-any-return]
    head = _head(model)
    reason = _why_not(model, head)
    if not reason and isinstance(head, nn.Linear):
        features = _features(model, head, inputs, named)
        if features is not None:
            return Features(features, LinearHead.of(features, head.weight, head.bias, chunk=chunk))
        reason = _why_not(model, head)
    if logits == "chunked":
        raise ModelwrightError(
            f"logits: chunked is not possible: {reason}",
            where="objective.logits",
            remedy="set it to auto, or let the model return what its nn.Linear named 'head' returns",
        )
    if head is not None and model not in _told:
        _told.add(model)
        emit("full-logits", f"the loss takes the model's full logits: {reason}", reason=reason)
    return logits_of(model(*inputs, **named))  # type: ignore[no-any-return]


def _head(model: nn.Module) -> nn.Module | None:
    """The module ``head``, or what a model of ``transformers`` names as its output layer."""
    head = getattr(model, "head", None)
    if head is None and callable(ask := getattr(model, "get_output_embeddings", None)):
        head = ask()
    return head if isinstance(head, nn.Module) else None


def _why_not(model: nn.Module, head: nn.Module | None) -> str:
    """Why the head cannot be applied elsewhere; empty if nothing speaks against it."""
    if model in _unsuitable:
        return "the model does more with its head than to return what that returns"
    if head is None:
        return "the model has no module named 'head'"
    if type(head) is not nn.Linear:
        return f"its head is no plain nn.Linear, but {type(head).__name__}"
    if any(getattr(head, hooks) for hooks in _HOOKS) or "forward" in vars(head):
        return "its head has hooks"
    if type(head.weight) not in (nn.Parameter, Tensor):
        return f"the weight of its head is a {type(head.weight).__name__}"
    return ""


def _features(model: nn.Module, head: nn.Linear, inputs: tuple[Tensor, ...], named: Mapping[str, Any]) -> Tensor | None:
    """What the head would read, if the model returns what that returns; tried out on a model not seen before."""
    if model in _suitable:
        return _short(model, head, inputs, named)
    before = _random_state(inputs)
    try:
        features = _short(model, head, inputs, named)
    except Exception:  # the full model is called next, and says what is wrong, if anything is
        features = None
    if features is None:
        _set_random_state(before)
    (_unsuitable if features is None else _suitable).add(model)
    return features


def _short(model: nn.Module, head: nn.Linear, inputs: tuple[Tensor, ...], named: Mapping[str, Any]) -> Tensor | None:
    with _identity_for(head, model) as identity:
        outputs = logits_of(model(*inputs, **named))
    seen, identity.seen = identity.seen, []
    return outputs if len(seen) == 1 and outputs is seen[0] else None


class _Identity(nn.Module):
    """Returns its input, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        self.seen.append(features)
        return features


@contextmanager
def _identity_for(head: nn.Module, model: nn.Module) -> Iterator[_Identity]:
    identity = _identities.setdefault(head, _Identity())
    identity.seen = []
    places = _places(head, model)
    for module, name in places:
        module._modules[name] = identity
    try:
        yield identity
    finally:
        for module, name in places:
            module._modules[name] = head


def _places(head: nn.Module, model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the head hangs: mostly in the model itself."""
    found = _children(model, head)
    return found or [place for module in model.modules() for place in _children(module, head)]


def _children(module: nn.Module, wanted: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, name) for name, child in module._modules.items() if child is wanted]


_RandomState = tuple[Tensor, Tensor | None, torch.device]


def _random_state(inputs: tuple[Tensor, ...]) -> _RandomState:
    device = inputs[0].device
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None, device


def _set_random_state(state: _RandomState) -> None:
    """An attempt that came to nothing leaves dropout as if it had not been."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], state[2])
