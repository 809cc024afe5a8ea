"""Where a model's first weights come from. As light as a recipe: nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modelwright.base.errors import ModelwrightError
from modelwright.models.starts.naming import check_rules


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the first weights come from, instead of from the seed. Exactly one source is given.

    Everything must fit by name and shape, but for what is said here; what does not is refused with what to write.

    Attributes:
        run: path of a run, whose newest weights are taken.
        weights: a file of weights: safetensors, an index of shards, or a state dict that ``torch.save`` wrote.
        folder: a local ``transformers`` folder.
        checkpoint: a Lightning file (``.ckpt``) or a checkpoint folder of the ``transformers`` Trainer; the weights
            alone are taken.
        rename: beginnings of names in the source -> in the model, dots included, such as ``{"model.": ""}``; a ``*``
            stands for one part between the dots. The longest that fits counts.
        drop: patterns of tensors to leave out, by their names in the source or in the model; the model keeps its own.
        head: leave the head as the seed made it, whatever the source has: the name of its layer, or ``auto``.
        missing: ``allow`` keeps the model's own values for what the source lacks.
        unexpected: ``allow`` leaves out what the model lacks.
    """

    run: str | None = None
    weights: Path | None = None
    folder: Path | None = None
    checkpoint: Path | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    head: str | None = None
    missing: Literal["error", "allow"] = "error"
    unexpected: Literal["error", "allow"] = "error"

    def __post_init__(self) -> None:
        given = [name for name in ("run", "weights", "folder", "checkpoint") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ModelwrightError(
                f"a start has one source, not {len(given)}{': ' if given else ''}{', '.join(given)}",
                where="start",
                remedy="give one of run, weights, folder and checkpoint",
            )
        check_rules(self.rename, "rename")
        for name in ("missing", "unexpected"):
            if getattr(self, name) not in ("error", "allow"):
                what = f"'{name}' is error or allow, not {getattr(self, name)!r}"
                raise ModelwrightError(what, where=name)

    @property
    def source(self) -> Path:
        """The path that was given."""
        return Path(str(self.run or self.weights or self.folder or self.checkpoint))
