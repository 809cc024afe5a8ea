"""The depth of a model's layers, for learning rates that shrink towards the inputs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches
from modelwright.models.starts.heads import find_head


def layer_patterns(model: nn.Module) -> list[str]:
    """Names of the repeated layers, first to last.

    They are the members with parameters of every outermost ``nn.ModuleList`` or ``nn.Sequential`` of two or more such
    members of one class, without the head itself. Of an encoder and a decoder, the encoder's come first.
    """
    layers = list(_within(model, ""))
    return [name for name in layers if name != find_head(model)] if layers else []


def discriminative_rules(model: nn.Module, decay: float) -> list[tuple[str, float]]:
    """Factors of the learning rate by depth: 1 for what comes after the layers, ``decay`` for the last layer, one
    more power of it for each layer before, and one more for what comes before the first (embeddings).

    Source: Howard and Ruder 2018 (arXiv:1801.06146); counted as in BEiT (Bao et al. 2021, arXiv:2106.08254).

    Args:
        model: a model with repeated layers.
        decay: in (0, 1].

    Returns:
        ``(pattern, factor)``, deepest last, each parameter in at most one; parameters in none have factor 1. Layers
        that are frozen are left out, for groups of an optimizer do not know them.

    Raises:
        ModelwrightError: the model has no repeated layers, or decay is out of range.
    """
    if not 0 < decay <= 1:
        raise ModelwrightError(f"decay is above 0 and at most 1, not {decay}", where="decay")
    layers = layer_patterns(model)
    if not layers:
        raise ModelwrightError(
            f"the model {type(model).__name__} has no repeated layers to count",
            remedy="give the groups by patterns of names",
        )
    depth = len(layers)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    first = [(name, decay ** (depth + 1)) for name in _before(model, layers[0]) if name in learning]
    rest = [(f"{name}.*", decay ** (depth - place)) for place, name in enumerate(layers)]
    return first + [(pattern, factor) for pattern, factor in rest if any(matches(name, [pattern]) for name in learning)]


def _before(model: nn.Module, layer: str) -> Iterator[str]:
    for name, _ in model.named_parameters():
        if name.startswith(f"{layer}."):
            return
        yield name


def _within(module: nn.Module, name: str) -> Iterator[str]:
    layers = _layers(module) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
    if layers:
        yield from (f"{name}.{layer}" if name else layer for layer in layers)
        return
    for child_name, child in module.named_children():
        yield from _within(child, f"{name}.{child_name}" if name else child_name)


def _layers(members: nn.Module) -> list[str]:
    found = {name: type(member) for name, member in members.named_children() if any(True for _ in member.parameters())}
    kinds = list(found.values())
    return list(found) if any(kinds.count(kind) > 1 for kind in kinds) else []
