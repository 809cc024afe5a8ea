"""Sections of a report about what was looked at while it trained: profiles, utilisation, left-out steps and spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import read_json
from modelwright.runs.directory import Run
from modelwright.runs.markup import Markup, pairs, shown, table, tag, text
from modelwright.runs.plain import number

Section = tuple[str, Markup]

_OPERATORS = 8
_DIAGNOSES = 20
_RATES = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3))


def seeing(run: Run) -> list[Section]:
    """The sections for which the run holds something."""
    made = [
        ("Utilisation", _utilisation(run)),
        *(_profile(run, path) for path in _numbered(run.path / "profile", "step-*.summary.json")),
        ("Diagnoses", _diagnoses(run)),
    ]
    return [(title, content) for title, content in made if content]


def flop_text(value: float) -> str:
    """``3.1e12`` -> ``"3.1 TFLOP"``."""
    for unit, size in _RATES:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} FLOP"


def _utilisation(run: Run) -> Markup:
    path, used = run.path / "flops.json", number(run.record.summary.get("utilisation"))
    if not path.exists():
        return ""

    def made(facts: Mapping[str, Any]) -> Markup:
        plural = "" if facts["workers"] == 1 else "s"
        forward = flop_text(facts["forward_flops_per_sample"])
        entries = [
            ("Each sample", f"{flop_text(facts['flops_per_sample'])}, {forward} of them forward"),
            ("Each step", flop_text(facts["flops_per_step"])),
            ("Peak of one worker", f"{flop_text(facts['peak_flops'])}/s; {facts['peak_source']}"),
            ("Operations", f"{facts['formula']}; on {_COUNTED.get(facts['counted_on'], facts['counted_on'])}"),
        ]
        if "palm_flops_per_sample" in facts:
            palm = (
                f"{flop_text(facts['palm_flops_per_sample'])} a sample by 6N + 12LHQT for each token (PaLM, appendix B)"
            )
            entries.insert(1, ("For comparison", palm))
        if used is not None:
            share = f"{100 * used:.3g} % of the peak of {facts['workers']} worker{plural}"
            entries.insert(0, ("Utilisation", share))
        note = "utilisation = operations of a step / (seconds of the median step x peak x workers)"
        return pairs([(name, text(value)) for name, value in entries]) + tag("p", text(note), class_="note")

    return _read(path, made)


_COUNTED = {"meta": "the shapes of the first micro-batch", "micro-batch": "the first micro-batch, computed"}


def _profile(run: Run, path: Path) -> Section:
    def made(summary: Mapping[str, Any]) -> Markup:
        seconds = summary["seconds"]
        phases = [_phase(name, entry) for name, entry in summary["phases"].items()]
        operators = [_operator(entry, seconds) for entry in summary["operators"][:_OPERATORS]]
        modules = [_operator(entry, seconds) for entry in summary["modules"][:_OPERATORS]]
        trace = f"profile/{summary['trace']}: open it at ui.perfetto.dev or chrome://tracing"
        return "".join(
            [
                table(("Phase", "Time", "Share", "Device time"), phases, numeric=range(1, 4)),
                table(("Operator", "Calls", "Time", "Device time"), operators, numeric=range(1, 4)),
                table(("Module", "Calls", "Time", "Device time"), modules, numeric=range(1, 4)) if modules else "",
                tag("p", text(f"Modules: {summary['modules_note']}. Trace: {trace}."), class_="note"),
            ]
        )

    step = path.name.removeprefix("step-").removesuffix(".summary.json").replace("-", ", ", 1).replace("-", " ")
    return f"Profile of step {step}", _read(path, made)


def _phase(name: str, entry: Mapping[str, Any]) -> list[Markup]:
    device = shown("seconds", entry["device_seconds"]) if entry["device_seconds"] else shown("", None)
    return [text(name), text(shown("seconds", entry["seconds"])), text(f"{entry['share']:.1%}"), text(device)]


def _operator(entry: Mapping[str, Any], whole: float) -> list[Markup]:
    device = shown("seconds", entry["device_seconds"]) if entry.get("device_seconds") else shown("", None)
    return [text(entry["name"]), text(entry["calls"]), text(shown("seconds", entry["seconds"])), text(device)]


def _diagnoses(run: Run) -> Markup:
    paths = list(_numbered(run.path / "diagnosis", "step-*.json"))
    lines = "".join(_read(path, _diagnosis) for path in paths[:_DIAGNOSES])
    rest = len(paths) - _DIAGNOSES
    more = tag("p", text(f"{rest} more in diagnosis/"), class_="note") if rest > 0 else ""
    return (tag("ul", lines) if lines else "") + more


def _diagnosis(found: Mapping[str, Any]) -> Markup:
    return tag("li", text(found["what"]) + (_worst(found["worst"]) if found.get("worst") else ""))


def _worst(samples: list[Mapping[str, Any]]) -> Markup:
    rows = [
        [text(each["sample"]), text(each["position"]), text(each["rank"]), text(shown("", number(each["loss"])))]
        for each in samples
    ]
    return table(("Sample", "Position", "Rank", "Loss"), rows, numeric=range(4))


def _read(path: Path, made: Callable[[Mapping[str, Any]], Markup]) -> Markup:
    try:
        return made(read_json(path))
    except (ModelwrightError, KeyError, TypeError, ValueError, AttributeError) as error:
        emit("file-damaged", f"{path.name} cannot be shown: {error!r}", level="warning", path=str(path))
        return ""


def _numbered(folder: Path, pattern: str) -> Iterator[Path]:
    """By the number of the step."""
    yield from sorted(folder.glob(pattern), key=lambda path: (int(path.name.split("-")[1].split(".")[0]), path.name))
