"""Folders of ``transformers``: what was loaded is told, and what is saved opens with ``from_pretrained``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import speaking
from modelwright.models.starts.heads import find_head

try:
    import transformers
    from transformers.utils import logging
except ImportError as error:
    raise MissingExtra("transformers", "the model 'transformers'") from error

chatter: Any = logging  # untyped
_SHOWN = 6


def save_transformers(model: nn.Module, folder: Path) -> None:
    """Write ``config.json`` and safetensors that ``from_pretrained`` of ``transformers`` opens; whole or not at all.

    Args:
        model: one of the technique :class:`Transformers`.
        folder: is made; may exist if it is empty.

    Raises:
        ModelwrightError: another model, or the folder holds something.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        raise ModelwrightError(
            f"a {type(model).__name__} is no model of transformers, so its folder format does not fit",
            remedy="save the weights as safetensors: modelwright.models.source.save_weights",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelwrightError("something is there already", where=str(folder), remedy="choose a new folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        with speaking(folder), quiet():
            folder.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(partial)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def judge(model: nn.Module, report: Mapping[str, Any], folder: Path) -> None:
    """Tell what did not come from the folder; another shape is understood of the head alone."""
    reshaped = {name: (tuple(old), tuple(new)) for name, old, new in report["mismatched_keys"]}
    head = find_head(model)
    outside = [name for name in reshaped if name.rpartition(".")[0] != head]
    if outside:
        old, new = reshaped[outside[0]]
        raise ModelwrightError(
            f"'{outside[0]}' has shape {list(old)} in the folder, but {list(new)} in the model",
            where=str(folder),
            remedy="leave the sizes to the folder's config.json",
        )
    fresh = sorted({*report["missing_keys"], *reshaped})
    if len(fresh) >= sum(1 for _ in model.parameters()):
        raise ModelwrightError(
            "the folder's weights are of another model: no tensor fits",
            where=str(folder),
            remedy="choose the task that the folder was saved for",
        )
    if fresh:
        what = f"{len(fresh)} tensors are new, not from {folder}: {', '.join(fresh[:_SHOWN])}"
        emit("weights-fresh", what, level="warning", names=fresh)
    if unused := sorted(report["unexpected_keys"]):
        what = f"{len(unused)} tensors of {folder} are not used: {', '.join(unused[:_SHOWN])}"
        emit("weights-unused", what, level="warning", names=unused)


@contextmanager
def quiet() -> Iterator[None]:
    """Without its progress bars and its report, of which ours tells."""
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
