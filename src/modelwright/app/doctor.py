"""The verb ``doctor``: does this machine have what modelwright needs, and what would help?"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from modelwright.app.places import data_cache
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import make_folder, write_text
from modelwright.base.units import bytes_text
from modelwright.base.world import world
from modelwright.launch import Placement, raise_failure, start

FREE_BYTES = 1_000_000_000
_EXTRAS = {"tokenizers": "text", "plotly": "report", "sklearn": "sklearn"}


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        name: what was looked at.
        state: ``ok``, ``warning`` (something is missing that some jobs need) or ``error``.
        found: what there is.
        remedy: what to do, where something is amiss.
    """

    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at everything; ``folder`` is where runs would be written."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("torch", "ok", torch.__version__),
        _device(),
        *(_extra(module, extra) for module, extra in _EXTRAS.items()),
        _tried("runs folder", lambda: _writable(folder)),
        _tried("data cache", lambda: _writable(data_cache())),
        _space(folder),
        _tried("two workers", _two_workers),
    ]


def rank(arguments: list[str]) -> None:
    """What each of the two test workers does: sum a one over both."""
    with world() as mesh:
        ones = torch.ones(1)
        mesh.world.all_reduce(ones)
        if ones.item() != mesh.world.size:
            raise ModelwrightError(f"the sum over {mesh.world.size} workers came out as {ones.item():g}")


def _device() -> Finding:
    cluster = detect()
    found = f"{cluster.device_name}, {cluster.cores} cores, {bytes_text(cluster.memory_bytes)}"
    if cluster.devices:
        return Finding("device", "ok", f"{cluster.devices} x {cluster.device_name}, {bytes_text(cluster.device_bytes)}")
    abilities = ", ".join(cluster.features) or "no vector extensions"
    return Finding("device", "ok", f"cpu: {found} ({abilities})")


def _extra(module: str, extra: str) -> Finding:
    if importlib.util.find_spec(module):
        return Finding(module, "ok", "installed")
    return Finding(module, "warning", "not installed", f"pip install 'modelwright[{extra}]'")


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", attempt())
    except ModelwrightError as error:
        return Finding(name, "error", error.what, error.remedy)


def _writable(folder: Path) -> str:
    there = folder.exists()
    make_folder(folder)
    mark = folder / ".doctor"
    write_text(mark, "")
    mark.unlink()
    if not there:
        folder.rmdir()
    return f"{folder} can be written"


def _space(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    state: Literal["ok", "warning"] = "ok" if free >= FREE_BYTES else "warning"
    return Finding("disk", state, f"{bytes_text(free)} free", "" if state == "ok" else "free some space")


def _two_workers() -> str:
    with tempfile.TemporaryDirectory() as logs:
        entry = "modelwright.app.doctor:rank"
        with start(entry, [], Placement(workers=2, threads=1), logs=Path(logs)) as job:
            status = job.wait(120)
            if status.failure is not None:
                raise_failure(status.failure)
            if status.state != "finished":
                raise ModelwrightError("two workers did not meet within 120 s", remedy="check firewall and loopback")
    return "meet and exchange tensors"


def shown(findings: Sequence[Finding]) -> RenderableType:
    """Findings as a table."""
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}
    made = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        made.add_row(finding.name, marks[finding.state], escape(finding.found + remedy))
    return made
