"""Export a module: written, opened in its runtime, compared, scored, and only then put where it is to lie."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import make_folder, speaking
from modelwright.export import FORMATS, ExportFormat
from modelwright.export.call import Call, call_of
from modelwright.export.file_module import FileModule
from modelwright.export.judge import HeldOut, check_scores
from modelwright.export.probe import check_outputs
from modelwright.export.runtimes import computed, runtime_of
from modelwright.models.source import tensors_of
from modelwright.runs.environment import package_version

FORMS = {".onnx": "onnx", ".pte": "executorch", ".pt2": "torch-export", ".safetensors": "safetensors"}
"""The format that a file's name asks for."""

_FEW = 3
_ROOM = 32  # samples for which a file has room where it has no room for more than were in its example

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that holds what the model holds.

    Attributes:
        path: of the file.
        form: a name of :data:`~modelwright.export.FORMATS`.
        bytes: of the file and what lies beside it.
        reported: loss and metrics of the model on held-out data; empty where there is none.
        found: those of the file in its runtime; empty where the format has none.
        distance: of the file's outputs from the model's, as a part of their length; ``None`` where no runtime computes
            the format.
    """

    path: Path
    form: str
    bytes: int
    reported: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, float] = field(default_factory=dict)
    distance: float | None = None


def export(
    model: nn.Module,
    path: Path | str,
    example: Any = None,
    *,
    form: str | None = None,
    facts: Mapping[str, str] | None = None,
    held_out: HeldOut | None = None,
    force: bool = False,
) -> Exported:
    """Write a module to a file that computes the same, or fail and leave nothing.

    A file that a runtime computes is opened there. Its outputs are compared with the module's on the example and on
    other sizes; and, where there is data to judge by, its metrics with the module's: see
    :mod:`modelwright.export.judge`.

    Args:
        model: any module; not altered. What is in float16 or bfloat16 is exported in float32.
        path: where to; the parents are made.
        example: a dict of arguments by name, a tuple of arguments, or one argument; ``None``: how the objective of
            ``held_out`` calls the module.
        form: a name of :data:`~modelwright.export.FORMATS`; ``None``: as the path ends.
        facts: texts for the file's metadata.
        held_out: what to judge by.
        force: replace a file that is there.

    Raises:
        ModelwrightError: something is there, the module cannot be exported so, or the file is wrong.
    """
    path = Path(path)
    form = form or form_of(path)
    if path.exists() and not force:
        raise ModelwrightError("something is there already", where=str(path), remedy="choose another place, or force")
    plain = _plain(model)
    if not computed(path):
        return _stored(plain, path, form, facts or {})
    call = _call(plain, example, held_out, form)
    reported = held_out.score(plain) if held_out is not None else {}
    said = _facts(facts or {}, held_out, reported)
    make_folder(path.parent)
    with _aside(path) as temporary:
        write: ExportFormat = FORMATS.resolve(form)
        write(temporary, {}, lambda: plain, said, lambda: call)
        runner = runtime_of(temporary).open(temporary, trust=True)
        distance = check_outputs(runner, plain, call, path)
        found = held_out.score(FileModule(runner)) if held_out is not None else {}
        if held_out is not None:
            check_scores(reported, found, len(held_out.data), path)
        size = _moved(temporary, path)
    return Exported(path=path, form=form, bytes=size, reported=reported, found=found, distance=distance)


def form_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        ModelwrightError: none ends so.
    """
    if path.suffix not in FORMS:
        raise ModelwrightError(
            f"no format ends in '{path.suffix}'", where=str(path), remedy=f"known: {', '.join(FORMS)}; or give form="
        )
    return FORMS[path.suffix]


def _plain(model: nn.Module) -> nn.Module:
    """On the CPU, in a type that every runtime computes."""
    tensors = [*model.parameters(), *model.buffers()]
    narrow = any(each.dtype in _NARROW for each in tensors)
    if not narrow and all(each.device.type == "cpu" for each in tensors):
        return model
    if narrow:
        emit("export-widened", "what the model holds in 16 bits is exported in float32")
    copied = copy.deepcopy(model).cpu()
    return copied.float() if narrow else copied


def _call(model: nn.Module, example: Any, held_out: HeldOut | None, form: str) -> Call:
    if example is not None:
        return example if isinstance(example, Call) else call_of(model, example)
    if held_out is None:
        raise ModelwrightError(
            "the format needs to know how the model is called",
            where="example",
            remedy="give an example, or data to judge by",
        )
    return call_by(held_out, model, form)


def call_by(held_out: HeldOut, model: nn.Module, form: str) -> Call:
    """How the objective calls the model, with as many samples as a file of the format needs to be made from."""
    return held_out.call(model, max(_ROOM, held_out.micro_batch) if form == "executorch" else _FEW)


def _facts(facts: Mapping[str, str], held_out: HeldOut | None, reported: Mapping[str, float]) -> dict[str, str]:
    said = {"modelwright": package_version("modelwright"), "precision": "fp32", **facts}
    if held_out is not None:
        kind = type(held_out.objective)
        said |= {
            "objective": f"{kind.__module__}:{kind.__qualname__}",
            "reported": json.dumps(dict(reported)),
            "samples": str(len(held_out.data)),
        }
    return said


def _stored(model: nn.Module, path: Path, form: str, facts: Mapping[str, str]) -> Exported:
    """Formats that only keep weights."""
    make_folder(path.parent)
    write: ExportFormat = FORMATS.resolve(form)
    write(path, tensors_of(model), lambda: model, facts, _no_call)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Exported(path=path, form=form, bytes=sum(file.stat().st_size for file in files))


def _no_call() -> Call:
    raise ModelwrightError(
        "the format computes, but no runtime is known for files that end so", remedy=f"known: {', '.join(FORMS)}"
    )


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` with its name; nothing of it is left at the end."""
    with speaking(path), tempfile.TemporaryDirectory(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent) as folder:
        yield Path(folder) / path.name


def _moved(source: Path, target: Path) -> int:
    """Bytes that were moved: the file, which comes last, and what lies beside it."""
    beside = [file for file in source.parent.iterdir() if file != source]
    size = 0
    for file in (*beside, source):
        size += file.stat().st_size
        file.replace(target.parent / file.name)
    return size
