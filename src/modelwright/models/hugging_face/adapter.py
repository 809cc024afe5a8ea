"""Models of ``transformers`` in the manner of this house: a tensor in, a tensor out, the names of parameters kept.

Nothing of ``transformers`` is imported here: what its models offer is asked of the model at hand.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

_SPLITS = "_head_follows_features"
_TRIED = 4


def adapt(model: nn.Module) -> nn.Module:
    """Let ``model(inputs)`` return the plain tensor: logits, or the last hidden states where it has no head.

    The module stays what it is - its class becomes a subclass of its own, so names of parameters, configuration,
    saving and generation are as before. Called by names alone, as ``transformers`` calls itself, it answers as ever.
    A language model whose logits are ``head(features(inputs))`` gets these two as attributes.
    """
    kind = type(model)
    causal = _is_causal(model)
    model.__class__ = _adapted(cast(Any, kind), causal)
    if causal:
        setattr(model, _SPLITS, _splits(model))
    return model


def language_parts(model: nn.Module) -> tuple[Callable[..., Tensor], nn.Module] | None:
    """``(features, head)`` of a language model with ``model(tokens) == head(features(tokens))``, else ``None``.

    ``features`` takes tokens ``[batch, time]`` (and ``input_mask``, where the model knows masks) and gives
    ``[batch, time, width]``; any model that has the attributes ``features`` and ``head`` will do.
    """
    features, head = getattr(model, "features", None), getattr(model, "head", None)
    return (features, head) if callable(features) and isinstance(head, nn.Module) else None


@functools.cache
def _adapted(kind: type[nn.Module], causal: bool) -> type[nn.Module]:
    original: Callable[..., Any] = kind.forward
    accepted = frozenset(inspect.signature(original).parameters)

    @functools.wraps(original)  # transformers reads the signature, to prepare what it passes
    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        if not inputs:
            return original(self, **named)
        return _plain(original(self, **_arguments(self, accepted, *inputs, **named)))

    members: dict[str, Any] = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    if causal and not hasattr(kind, "features"):
        members |= {"features": property(_features), "head": property(_head)}
    return type(kind.__name__, (kind,), members)


def _arguments(
    model: Any,
    accepted: frozenset[str],
    inputs: Tensor,
    extent: Tensor | None = None,
    decoder_inputs: Tensor | None = None,
    *,
    input_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    **named: Any,
) -> dict[str, Any]:
    """Ours to theirs: ``input_mask [batch, time]`` or ``lengths [batch]``, by name or place, is the attention mask."""
    if extent is not None:
        input_mask, lengths = (extent, None) if extent.dim() > 1 else (None, extent)
    if inputs.dtype == torch.uint8:
        inputs = inputs.to(model.dtype) / 255
    elif inputs.is_floating_point():
        inputs = inputs.to(model.dtype)
    named[model.main_input_name] = inputs
    if decoder_inputs is not None:
        named["decoder_input_ids"] = decoder_inputs
    if lengths is not None and input_mask is None:
        input_mask = torch.arange(inputs.size(1), device=inputs.device) < lengths.unsqueeze(1)
    input_mask = named.pop("attention_mask", input_mask)
    if input_mask is not None:
        named["attention_mask"] = input_mask.long()
        named[model.main_input_name] = _filled(model, inputs, input_mask)
    if "use_cache" in accepted:
        named["use_cache"] = False
    return {**named, "return_dict": True}


def _filled(model: Any, inputs: Tensor, mask: Tensor) -> Tensor:
    """Padding as the model's configuration has it: some find the end of a text by this token, not by the mask."""
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    if not isinstance(pad, int) or pad < 0 or inputs.is_floating_point() or inputs.shape != mask.shape:
        return inputs
    return inputs.masked_fill(~mask.bool(), pad)


def _plain(outputs: Any) -> Tensor:
    for name in ("logits", "last_hidden_state"):
        found = getattr(outputs, name, None)
        if isinstance(found, Tensor):
            return found
    return outputs  # type: ignore[no-any-return]  # objectives say what they cannot read


def _is_causal(model: Any) -> bool:
    config = getattr(model, "config", None)
    return (
        not getattr(config, "is_encoder_decoder", False)
        and "CausalLM" in type(model).__name__ + "CausalLM" * type(model).__name__.endswith("LMHeadModel")
        and model.base_model is not model
        and model.get_output_embeddings() is not None
    )


def _splits(model: Any) -> bool:
    """Whether the logits are the head's outputs and nothing else, tried on a few tokens: some models scale them."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return False
    training = [(module, module.training) for module in model.modules()]
    tokens = torch.arange(_TRIED, device=next(model.parameters()).device).unsqueeze(0)
    try:
        with torch.no_grad():
            model.eval()
            logits, features = model(tokens), _hidden(model, tokens)
            return bool(logits.any()) and torch.equal(model.get_output_embeddings()(features), logits)
    except (RuntimeError, IndexError, TypeError, AttributeError):
        return False
    finally:
        for module, mode in training:
            module.training = mode


def _features(model: Any) -> Callable[..., Tensor]:
    if not model.__dict__.get(_SPLITS, False):
        raise AttributeError("features")
    return functools.partial(_hidden, model)


def _head(model: Any) -> nn.Module:
    if not model.__dict__.get(_SPLITS, False):
        raise AttributeError("head")
    return model.get_output_embeddings()  # type: ignore[no-any-return]


def _hidden(model: Any, inputs: Tensor, **named: Any) -> Tensor:
    """Tokens ``[batch, time]`` -> what the head reads ``[batch, time, width]``."""
    base = model.base_model
    accepted = frozenset(inspect.signature(type(base).forward).parameters)
    return _plain(base(**_arguments(base, accepted, inputs, **named)))
