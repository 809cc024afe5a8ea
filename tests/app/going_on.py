"""Runs that go on: trained once for all tests of a session, and copies of them as they stood after a step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.command import TEXT, _shared, change_json, invoke, write_recipe
from torch import Tensor

from modelwright.runs import Run, read_events
from modelwright.runs.eventlog import LoggedEvent
from modelwright.runs.metrics import read_metrics

STEPS = 12
PLAN = "{measure: false, workers: 2, threads: 1, micro_batch: 2, precision: fp32}"
FIELDS = TEXT | {
    "model": "{use: gpt, layers: 1, width: 16, heads: 2, dropout: 0.0}",
    "batch": "6",
    "budget": f"{{steps: {STEPS}}}",
    "schedule": "constant",
    "averaging": "{use: ema, decay: 0.9}",
    "evaluation": "{every: 3, samples: 4}",
    "saving": "{every: 3, keep: 9}",
    "watch": "{samples: true}",
    "plan": PLAN,
}
KINDS = {
    "text": FIELDS,
    "dropout": FIELDS | {"model": "{use: gpt, layers: 2, width: 16, heads: 2, dropout: 0.2}"},
    "cosine": FIELDS | {"schedule": "{use: cosine, warmup: 0}", "averaging": "null"},
}


@cache
def original(kind: str) -> Path:
    """A finished run of that kind, not to be changed."""
    here, folder = Path.cwd(), _shared() / f"going-on-{kind}"
    folder.mkdir()
    os.chdir(folder)
    try:
        write_recipe(KINDS[kind])
        outcome = invoke("train", "recipe.yaml", "--name", "whole")
    finally:
        os.chdir(here)
    assert outcome.code == 0, outcome.err
    return folder / "runs" / "whole"


def finished(kind: str, name: str = "mine") -> Run:
    """A copy of the finished run."""
    shutil.copytree(original(kind), Path("runs") / name)
    return Run(Path("runs") / name)


def rewound(kind: str, step: int, name: str = "mine") -> Run:
    """A copy of the run as it would stand if it had been killed after its checkpoint of ``step``."""
    run = finished(kind, name)
    for path in run.checkpoints.glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    (run.artifacts / "model.safetensors").unlink()
    change_json(run.path / "run.json", status="stopped")
    return run


def go_on(*arguments: str, code: int = 0) -> str:
    """Run the command; what it says."""
    outcome = invoke(*arguments)
    assert outcome.code == code, outcome.err + outcome.out
    return " ".join((outcome.out + outcome.err).split())


def losses(run: Run | Path) -> dict[int, float]:
    path = run if isinstance(run, Path) else run.path
    return {row["step"]: row["loss"] for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "step"}


def weights(run: Run | Path) -> dict[str, bytes]:
    """The bytes of the weights that the run made at its end; the header around them names them in any order."""
    path = run if isinstance(run, Path) else run.path
    found = tensors(path / "artifacts" / "model.safetensors")
    return {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in found.items()}


def tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def events(run: Run, kind: str) -> list[LoggedEvent]:
    return [event for event in read_events(run.events_path) if event.kind == kind]


def samples(run: Run | Path) -> dict[int, list[int]]:
    """What the ranks noted that they used, by step, in the order of the ranks; of two sittings the later one counts."""
    path = run if isinstance(run, Path) else run.path
    rows: dict[int, dict[str, list[tuple[int, list[int]]]]] = {}
    latest: dict[int, str] = {}
    files = sorted((path / "samples").glob("rank-*.jsonl"), key=lambda file: int(file.stem.removeprefix("rank-")))
    for file in files:
        for line in file.read_text().splitlines():
            row: dict[str, Any] = json.loads(line)
            rank = int(file.stem.removeprefix("rank-"))
            rows.setdefault(row["step"], {}).setdefault(row["generation"], []).append((rank, row["indices"]))
            if rank == 0:
                latest[row["step"]] = row["generation"]
    return {
        step: [index for _, indices in sorted(found[latest[step]]) for index in indices] for step, found in rows.items()
    }


@contextmanager
def without_data(monkeypatch: Any) -> Iterator[None]:
    """Within the block neither the prepared data nor its source is there."""
    with monkeypatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(Path("nothing").absolute()))
        yield
