"""The ``.pt2`` of torch.export: the captured program, for torch without the model's code.

Loading such a file runs what its author wished: :func:`torch.export.load` of torch 2.13 unpickles whatever the archive
marks as pickled, falls back from ``weights_only`` to plain pickle for its example, and evaluates the terms of sizes as
Python. So a file is read only where a seal inside shows that this user wrote it, or where the user says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import speaking
from modelwright.export.call import Call
from modelwright.export.program import Program, capture
from modelwright.export.signature import Signature
from modelwright.runs import ours, sign

ENDING = ".pt2"
_FACTS = "extra/modelwright.json"
_LEAVES = "`isinstance.treespec, LeafSpec.` is deprecated"


def export_program(
    path: Path,
    weights: Mapping[str, Tensor],
    model: Callable[[], nn.Module],
    facts: Mapping[str, str],
    call: Callable[[], Call],
) -> None:
    """Write the program as it is called, in float32, with the ``facts`` and a seal in ``extra/modelwright.json``.

    Raises:
        ModelwrightError: the model cannot be captured, disk full.
    """
    write_program(capture(model(), call()), path, facts)


def write_program(program: Program, path: Path, facts: Mapping[str, str]) -> None:
    """The same of a captured program."""
    with speaking(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _LEAVES, FutureWarning)
        torch.export.save(program.exported, _bare(path))
        _bare(path).replace(path)
        with zipfile.ZipFile(path) as archive:
            said = {"format": 1, "facts": dict(facts), "signature": program.signature.to_json()}
            folder = archive.namelist()[0].partition("/")[0]
            said["origin"] = sign(_content(archive, said))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{folder}/{_FACTS}", json.dumps(said))


def read_facts(path: Path) -> tuple[dict[str, str], Signature]:
    """What the file says about itself; nothing of it is run.

    Raises:
        ModelwrightError: it is no such file, or none of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            said = _said(archive)
            return dict(said["facts"]), Signature.from_json(said["signature"], str(path))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelwrightError(
            "the file is no program that modelwright exported", where=str(path), remedy="export it anew"
        ) from error


def read_program(path: Path, *, trust: bool = False) -> ExportedProgram:
    """The program of a file that this user wrote, or trusts.

    Raises:
        ModelwrightError: it came from elsewhere, or cannot be read.
    """
    content = path.read_bytes()  # once: what was looked at is what is loaded
    if not trust and not _is_ours(content):
        raise ModelwrightError(
            "this file came from elsewhere, and reading it would run what its author wished",
            where=str(path),
            remedy="ask for ONNX, which is data only; or add --trust where you trust the author",
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _LEAVES, FutureWarning)
            return torch.export.load(io.BytesIO(content))
    except Exception as error:  # whatever a damaged archive brings about
        raise ModelwrightError(
            f"the file cannot be read: {type(error).__name__}: {error}", where=str(path), remedy="export it anew"
        ) from error


def _bare(path: Path) -> Path:
    return path.with_name("program.pt2")  # the name of the file is the name of a folder inside


def _is_ours(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            said = _said(archive)
            return ours(_content(archive, said), str(said.pop("origin")))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return False


def _said(archive: zipfile.ZipFile) -> dict[str, Any]:
    names = [name for name in archive.namelist() if name.endswith(f"/{_FACTS}")]
    return json.loads(archive.read(names[0])) if len(names) == 1 else {}


def _content(archive: zipfile.ZipFile, said: Mapping[str, object]) -> str:
    """What is sealed: every member but the seal, by name and hash, and what is said of them.

    Raises:
        ValueError: a name occurs twice, so that readers may differ in what they read.
    """
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    hashes = {n: hashlib.sha256(archive.read(n)).hexdigest() for n in names if not n.endswith(f"/{_FACTS}")}
    return json.dumps([hashes, {key: value for key, value in said.items() if key != "origin"}], sort_keys=True)
