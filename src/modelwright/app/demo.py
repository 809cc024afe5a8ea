"""The verb ``demo``: one real job from nothing to a report - a language model of this machine's own Python library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from modelwright.app.account import told
from modelwright.app.display import table
from modelwright.app.evaluate import yardsticks_of
from modelwright.app.generate import continued
from modelwright.app.reporting import report_or_say
from modelwright.app.session import logged
from modelwright.app.train import train
from modelwright.app.trained import open_trained
from modelwright.base.files import write_text
from modelwright.runs import Run
from modelwright.training.training import Training

RECIPE = "python-stdlib"
PROMPT = "def read_lines(path, encoding=None):\n"


def demo(*, folder: Path, console: Console, overrides: Sequence[str] = ()) -> Run:
    """Train, evaluate, generate, report; print what was done and where it lies."""
    run = train(RECIPE, overrides, folder=folder, console=console)
    if run.status() != "finished" or "bits-per-byte" not in run.record.summary.get("held_out", {}):
        return run
    training, _ = open_trained(run)
    with logged(run), console.status("compressing the same files with gzip and lzma"):
        scores = _beside_compressors(run, training)
    console.print(_ranking(scores))
    console.print("[bold]A few lines of its own[/]")
    text = _speak(training, console)
    _add_sections(run, scores, text)
    report_or_say(run, console)
    console.print(told(run), soft_wrap=True)
    return run


def _beside_compressors(run: Run, training: Training) -> dict[str, float]:
    measured = run.record.summary["held_out"]["bits-per-byte"]
    return {"this model": measured, **yardsticks_of(training)}


def _ranking(scores: Mapping[str, float]) -> Any:
    ordered = sorted(scores.items(), key=lambda item: item[1])
    return table(
        "Bits per byte of the held-out files (fewer is better)",
        {name: f"{value:.3f}" for name, value in ordered},
    )


def _speak(training: Training, console: Console) -> str:
    said = [PROMPT]
    console.print(PROMPT, end="", markup=False, highlight=False, style="dim")
    for piece in continued(training, PROMPT, length=120, temperature=0.7, top_k=40, seed=1):
        said.append(piece)
        console.print(piece, end="", markup=False, highlight=False)
    console.print()
    return "".join(said)


def _add_sections(run: Run, scores: Mapping[str, float], text: str) -> None:
    ordered = sorted(scores.items(), key=lambda item: item[1])
    sections = [
        {
            "title": "Bits per byte of the held-out files",
            "table": {
                "columns": ["method", "bits per byte"],
                "rows": [[name, round(bits, 4)] for name, bits in ordered],
            },
        },
        {"title": "Generated text", "text": text},
    ]
    write_text(run.artifacts / "sections.json", json.dumps(sections, indent=2) + "\n")
    run.update(summary={"yardsticks": {name: bits for name, bits in scores.items() if name != "this model"}})
