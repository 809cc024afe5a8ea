"""Starting weights: read, fitted to the model, copied; see :class:`modelwright.models.starts.start.Start`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.models.source import fill_twins, read_weights, tensors_of, twins
from modelwright.models.starts.heads import check_untied, find_head
from modelwright.models.starts.imports import Imported, read_checkpoint
from modelwright.models.starts.mismatch import Cure, Differences, Shapes, common_beginning, cure, differences
from modelwright.models.starts.naming import choose, covered, renamed
from modelwright.models.starts.start import Start
from modelwright.models.starts.weight_files import read_file, read_folder
from modelwright.runs import Run
from modelwright.runs.weights import newest_weights

_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of a start.

    Attributes:
        source: the file or folder that was read.
        taken: names of the model whose values came from it.
        fresh: names of the model that keep their own initial values.
        unused: names of the source that were left out.
        casts: ``"bfloat16 to float32"`` -> number of tensors.
        step: updates that the weights had, where the source says so.
        epoch: epochs that they had, where it says so.
        left: what else the source holds, in words.
    """

    source: str
    taken: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    casts: Mapping[str, int] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
    left: tuple[str, ...] = ()


def load_start(model: nn.Module, start: Start) -> Loaded:
    """Copy the starting weights into ``model``, which keeps its devices and dtypes; all of them, or nothing.

    Raises:
        ModelwrightError: the source cannot be read, or does not fit; the remedy says what would make it fit.
    """
    found = _read(start)
    own = tensors_of(model)
    start = _settled(start, own, found.tensors)
    kept = _without_head(model, start)
    saved, unused = _chosen(found.tensors, start, kept)
    _check_ties(own, saved, start)
    fill_twins(twins(own), saved)
    wanted = {name: tensor for name, tensor in own.items() if not covered(name, kept)}
    left = differences(_shapes(wanted), _shapes(saved))
    _check(left, own, found.tensors, start)
    taken = [name for name in wanted if name in saved]
    with torch.no_grad():
        for name in taken:
            own[name].copy_(saved[name])
    casts = Counter(_cast(saved[name], own[name]) for name in taken if saved[name].dtype != own[name].dtype)
    loaded = Loaded(
        source=str(start.source),
        taken=tuple(taken),
        fresh=tuple(name for name in own if name not in saved or name not in wanted),
        unused=(*unused, *left.unexpected),
        casts=dict(casts),
        step=found.step,
        epoch=found.epoch,
        left=found.left,
    )
    _tell(loaded, found.kind)
    return loaded


def _read(start: Start) -> Imported:
    if start.checkpoint is not None:
        return read_checkpoint(Path(start.checkpoint))
    if start.folder is not None:
        return Imported(tensors=read_folder(Path(start.folder)), kind="transformers")
    if start.weights is not None:
        return Imported(tensors=read_file(Path(start.weights)), kind="weights")
    path, step = newest_weights(_opened(Path(str(start.run))))
    return Imported(tensors=read_weights(path), kind="run", step=step)


def _settled(start: Start, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Start:
    """Where every name of the source begins alike and all fits without that beginning, take it off, and say so."""
    beginning = common_beginning(found)
    if start.rename or not beginning or any(name in own for name in found):
        return start
    bare = {name.removeprefix(beginning): tensor for name, tensor in found.items()}
    fill_twins(twins(own), bare)
    left = differences(_shapes(own), _shapes(bare))
    reshaped_alone = not left.missing and not left.unexpected
    if not reshaped_alone:
        return start
    emit("start-renamed", f"'{beginning}' was taken off every name in {start.source}", beginning=beginning)
    return replace(start, rename={beginning: ""})


def _without_head(model: nn.Module, start: Start) -> list[str]:
    """Patterns, in the model's names, of what keeps its own values."""
    if start.head is None:
        return list(start.drop)
    head = find_head(model, None if start.head == "auto" else start.head)
    check_untied(model, head)
    return [*start.drop, head]


def _chosen(tensors: Mapping[str, Tensor], start: Start, kept: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    names = {name: renamed(name, start.rename) for name in tensors}
    doubled = [new for new, count in Counter(names.values()).items() if count > 1]
    if doubled:
        both = " and ".join(f"'{name}'" for name, new in names.items() if new == doubled[0])
        raise ModelwrightError(f"{both} would both become '{doubled[0]}'", where="start.rename")
    _check_used(names, start)
    choose([*names, *names.values()], start.drop, "start.drop")
    unused = [name for name, new in names.items() if covered(new, kept) or covered(name, start.drop)]
    return {new: tensors[name] for name, new in names.items() if name not in unused}, unused


def _check_used(names: Mapping[str, str], start: Start) -> None:
    for beginning, replacement in start.rename.items():
        if beginning == replacement or any(renamed(name, {beginning: "\0"}) != name for name in names):
            continue
        raise ModelwrightError(
            f"no name in the source begins with '{beginning}'",
            where="start.rename",
            remedy=f"its names begin: {', '.join(sorted({name.partition('.')[0] for name in names})[:_SHOWN])}",
        )


def _check_ties(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], start: Start) -> None:
    for name, first in twins(own).items():
        if name in saved and first in saved and not torch.equal(saved[name], saved[first]):
            raise ModelwrightError(
                f"the model ties '{name}' to '{first}', but the source has two different tensors there",
                where=str(start.source),
                remedy="build the model without tied weights, or drop one of the two",
            )


def _check(left: Differences, own: Mapping[str, Tensor], found: Mapping[str, Tensor], start: Start) -> None:
    missing = left.missing if start.missing == "error" else []
    unexpected = left.unexpected if start.unexpected == "error" else []
    told = replace(left, missing=missing, unexpected=unexpected)
    nothing = start.missing == "allow" and len(left.missing) == len(own) > 0
    if not told and not nothing:
        return
    reshaped = [f"{name} (source {list(old)}, model {list(new)})" for name, (old, new) in told.reshaped.items()]
    parts = [
        *_listed("missing in the source", left.missing if nothing else missing),
        *_listed("unknown to the model", left.unexpected if nothing else unexpected),
        *_listed("of another shape", reshaped),
    ]
    raise ModelwrightError(
        f"the weights do not fit the model: {'; '.join(parts)}",
        where=str(start.source),
        remedy=_advice(cure(_shapes(own), _shapes(found), twins(own)), start),
    )


def _advice(found: Cure | None, start: Start) -> str:
    if found is None:
        return "they are of another model: fewer than half of the tensors agree, whatever their names"
    fields = []
    if found.rename:
        fields.append(f"rename: {json.dumps(found.rename)}")
    if drop := [*start.drop, *(pattern for pattern in found.drop if pattern not in start.drop)]:
        fields.append(f"drop: {json.dumps(drop)}")
    if found.allow_missing:
        fields.append("missing: allow")
    if not fields:
        return "leave out the renames and drops of the start"
    return f"write below 'start:'  {', '.join(fields)}"


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _cast(source: Tensor, target: Tensor) -> str:
    old, new = (str(tensor.dtype).removeprefix("torch.") for tensor in (source, target))
    exact = torch.promote_types(source.dtype, target.dtype) == target.dtype
    return f"{old} to {new}, {'exact' if exact else 'rounded'}"


def _tell(loaded: Loaded, kind: str) -> None:
    source, at = loaded.source, f" at step {loaded.step}" if loaded.step is not None else ""
    what = f"{len(loaded.taken)} tensors start from {source} ({kind}{at})"
    emit("start-loaded", what, source=source, step=loaded.step)
    if loaded.fresh:
        what = f"{len(loaded.fresh)} tensors keep their initial values: {', '.join(loaded.fresh[:_SHOWN])}"
        emit("start-fresh", what, level="warning", names=list(loaded.fresh))
    if loaded.unused:
        what = f"{len(loaded.unused)} tensors of {source} are not used: {', '.join(loaded.unused[:_SHOWN])}"
        emit("start-unused", what, level="warning", names=list(loaded.unused))
    for cast, count in loaded.casts.items():
        emit("start-cast", f"{count} tensors were cast from {cast}", cast=cast, tensors=count)
    if loaded.left:
        emit("start-left", f"not taken from {source}: {'; '.join(loaded.left)}", left=list(loaded.left))


def _opened(path: Path) -> Run:
    try:
        return Run.open(path)
    except ModelwrightError as error:
        raise ModelwrightError(
            f"there is nothing to start from: {error.what}",
            where="start.run",
            remedy=f"train it first, with --name {path.name}; or name another: start.run=runs/NAME",
        ) from error
