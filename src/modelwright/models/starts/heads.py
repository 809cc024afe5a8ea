"""The head of a model: the last layer, which makes the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.events import emit

_NAMES = ("classifier", "score", "head", "fc", "lm_head", "output")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_head(model: nn.Module, name: str | None = None) -> str:
    """The name of the linear or convolutional layer that makes the outputs.

    Args:
        model: any module.
        name: the layer, or a module whose last layer it is. ``None``: the outermost module named ``classifier``,
            ``score``, ``head``, ``fc``, ``lm_head`` or ``output``; failing these the model's last layer.

    Raises:
        ModelwrightError: no such module, or no such layer in it.
    """
    modules = dict(model.named_modules())
    if name is not None and name not in modules:
        raise ModelwrightError(f"the model has no module '{name}'", where="head", remedy=nearest(name, modules))
    for place in [name] if name is not None else [*_well_known(model), ""]:
        layers = [inner for inner, module in modules[place].named_modules() if isinstance(module, _LAYERS)]
        if layers:
            return ".".join(part for part in (place, layers[-1]) if part)
    raise ModelwrightError(
        f"no linear or convolutional layer in '{name or type(model).__name__}'",
        where="head",
        remedy="name the layer that makes the outputs",
    )


def replace_head(model: nn.Module, classes: int, name: str | None = None, *, seed: int | None = None) -> str:
    """Put a new layer of ``classes`` outputs in the place of the head; the name of the layer.

    Its values are drawn as the layer's class does, or as a ``transformers`` model initialises its own.

    Args:
        model: changed in place.
        classes: outputs of the new layer.
        name: as of :func:`find_head`.
        seed: of the new values; ``None``: torch's global generator goes on.

    Raises:
        ModelwrightError: no such layer, or its weight is tied to another.
    """
    if classes < 1:
        raise ModelwrightError(f"classes is at least 1, not {classes}", where="classes")
    found = find_head(model, name)
    old = model.get_submodule(found)
    weight = model.get_parameter(f"{found}.weight")
    check_untied(model, found)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):  # drawn on the CPU, whatever the device
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        new = _alike(old, classes)
        initialise: Any = getattr(model, "_init_weights", None)
        if initialise is not None:
            initialise(new)
    model.set_submodule(found, new.to(weight.device).train(old.training))
    _note_classes(model, classes)
    emit("head-replaced", f"'{found}' is a new layer of {classes} outputs", name=found, classes=classes)
    return found


def check_untied(model: nn.Module, head: str) -> None:
    """Refuse a head whose weight belongs to the embedding too: it cannot be new alone."""
    own = dict(model.get_submodule(head).named_parameters())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.startswith(f"{head}.") and any(parameter is tied for tied in own.values()):
            raise ModelwrightError(
                f"the head '{head}' is tied to '{name}', so it cannot be new alone",
                where="head",
                remedy="build the model without tied weights",
            )


def _well_known(model: nn.Module) -> list[str]:
    found = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _NAMES]
    return sorted(found, key=lambda name: name.count("."))


def _alike(old: Any, classes: int) -> nn.Module:
    place = {"device": "cpu", "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, bias=old.bias is not None, **place)
    kinds: tuple[Any, ...] = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    shape = {kind: getattr(old, kind) for kind in kinds}
    return type(old)(old.in_channels, classes, bias=old.bias is not None, **shape, **place)  # type: ignore[no-any-return]


def _note_classes(model: nn.Module, classes: int) -> None:
    """A ``transformers`` model keeps the number in its configuration and, most of them, in itself."""
    for holder in _holders(model):
        if hasattr(holder, "num_labels"):
            holder.num_labels = classes


def _holders(model: nn.Module) -> Iterator[Any]:
    yield model
    if hasattr(model, "config"):
        yield model.config
