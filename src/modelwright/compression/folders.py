"""Pruned models of ``transformers`` as folders: ours to open in any case, theirs where a config can say the shapes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import emit
from modelwright.models.change import Change, apply_all
from modelwright.models.hugging_face.folder import save_transformers
from modelwright.models.modes import evaluating
from modelwright.models.source import load_weights, save_weights
from modelwright.reforms.moments import call

try:
    import transformers
except ImportError as error:
    raise MissingExtra("transformers", "folders of transformers") from error

FILE = "modelwright.json"
WEIGHTS = "modelwright.safetensors"
_ROUNDING = 64  # units in the last place of the largest number
_DTYPES = {
    str(each).removeprefix("torch."): each for each in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


def save_folder(
    model: nn.Module, changes: list[Change], original: nn.Module, example_inputs: Any, folder: Path
) -> bool:
    """Save what changes made of a model of ``transformers``; :func:`load_folder` opens it, from any process.

    Where a config says these shapes, and what plain ``from_pretrained`` makes of the folder then gives the same outputs
    for the example, to rounding, it stays so. Otherwise the folder has no weights under their usual name, which
    ``from_pretrained`` refuses, but a file of ours.

    Args:
        model: the new one.
        changes: that made it of the original.
        original: as its config makes it; its weights do not matter.
        example_inputs: a dict of arguments by name, a tuple of arguments, or one argument.
        folder: is made; may exist if it is empty.

    Returns:
        Whether plain ``from_pretrained`` opens it.

    Raises:
        ModelwrightError: another kind of model, or the folder holds something.
    """
    save_transformers(model, folder)
    source: Any = original
    found = _config(source, model)
    plain = found is not None and _same(type(source), found, model, example_inputs, folder)
    stored = {
        "model": type(source).__name__,
        "config": source.config.to_dict(),
        "dtype": str(_dtype(model)).removeprefix("torch."),
        "changes": [each.to_json() for each in changes],
        "plain": plain,
    }
    (folder / FILE).write_text(json.dumps(stored, indent=1))
    if not plain:
        _own(model, source.config, folder)
    return plain


def _own(model: nn.Module, config: Any, folder: Path) -> None:
    for each in folder.glob("model*.safetensors*"):
        each.unlink()
    config.save_pretrained(folder)
    save_weights(model, folder / WEIGHTS)
    what = "no config says these shapes, so that plain from_pretrained refuses the folder: open it with load_folder"
    emit("folder-needs-loader", f"{folder}: {what}", level="warning")


def load_folder(folder: Path | str) -> nn.Module:
    """The model of a folder that :func:`save_folder` wrote, in evaluation mode; no code of the folder runs.

    Raises:
        ModelwrightError: there is no such folder, or it is not whole.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / FILE).read_text())
        kind: Any = getattr(transformers, stored["model"])
        config, dtype = kind.config_class.from_dict(stored["config"]), _DTYPES[stored["dtype"]]
        changes = [Change.from_json(each) for each in stored["changes"]]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelwrightError(
            f"this is no folder of a changed model: {error}",
            where=str(folder),
            remedy="give one that save_folder wrote",
        ) from error
    if stored["plain"]:
        opened: nn.Module = kind.from_pretrained(folder, dtype=dtype)
        return opened.eval()
    model: nn.Module = kind(config)
    apply_all(model, changes)
    model.to(dtype)
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def _dtype(model: nn.Module) -> torch.dtype:
    return next(each.dtype for each in model.parameters() if each.is_floating_point())


def _config(original: Any, model: nn.Module) -> Any:
    """The config whose model has the shapes of ``model``, or ``None``.

    Each number follows the dims that it sizes, one after the other: those that size the fewest first, or the most. Of
    the number of heads and their width, which size the same dims, one order or the other finds which it was.
    """
    kind, wanted = type(original), _shapes(model)
    sized = {name: _sized(kind, original.config, name) for name in _numbers(original.config)}
    names = sorted((name for name, dims in sized.items() if dims), key=lambda each: len(sized[each]))
    for order in (names, names[::-1]):
        found = copy.deepcopy(original.config)
        for name in order:
            _follow(kind, found, name, sized[name], wanted)
        if _built(kind, found, {}) == wanted:
            return found
    return None


def _follow(
    kind: Any, config: Any, name: str, dims: list[tuple[str, int]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Set a number of the config, where its dims have become longer or shorter by one and the same ratio."""
    have, value = _built(kind, config, {}), getattr(config, name)
    ratios = {Fraction(wanted[key][dim], have[key][dim]) for key, dim in dims} if have else set()
    if len(ratios) == 1 and (value * (ratio := next(iter(ratios)))).denominator == 1:
        setattr(config, name, int(value * ratio))


def _sized(kind: Any, config: Any, name: str) -> list[tuple[str, int]]:
    """The dims of parameters that are twice as long where a number of the config is twice as large."""
    have, probed = _built(kind, config, {}), _built(kind, config, {name: 2 * getattr(config, name)})
    if have is None or probed is None or have.keys() != probed.keys():
        return []
    pairs = [(key, dim) for key, shape in have.items() for dim in range(len(shape))]
    return [(key, dim) for key, dim in pairs if probed[key][dim] == 2 * have[key][dim]]


def _numbers(config: Any) -> Iterator[str]:
    return (name for name, value in config.to_dict().items() if type(value) is int and value > 1)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in model.named_parameters()}


def _built(kind: Any, config: Any, changed: Mapping[str, int]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a model of that config; ``None`` where there is none such."""
    other = copy.deepcopy(config)
    try:
        for name, value in changed.items():
            setattr(other, name, value)
        with torch.device("meta"):
            return _shapes(kind(other))
    except Exception:  # Whatever a constructor raises: that number cannot be so.
        return None


def _same(kind: Any, config: Any, model: nn.Module, example_inputs: Any, folder: Path) -> bool:
    """Whether what ``from_pretrained`` makes of the folder, once it has the config, computes the same, to rounding."""
    config.save_pretrained(folder)
    try:
        fresh = kind.from_pretrained(folder, dtype=_dtype(model)).eval()
        with torch.no_grad(), evaluating(model):
            pairs = [tree_leaves(dict(call(each, example_inputs))) for each in (fresh, model)]
    except Exception as failure:  # Whatever a model raises: it is not the same.
        emit("folder-not-plain", f"a model of the config does not run: {failure}")
        return False
    tensors = [[each for each in some if isinstance(each, Tensor)] for some in pairs]
    return len(tensors[0]) == len(tensors[1]) and all(map(_close, *tensors))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    far = (one.double() - other.double()).abs().max() if one.numel() else torch.zeros(())
    return bool(far <= _ROUNDING * torch.finfo(one.dtype).eps * other.double().abs().max())
