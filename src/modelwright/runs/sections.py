"""The sections of a report, each from the run's files to markup; an empty one is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import read_json
from modelwright.base.plan import Plan
from modelwright.base.units import bytes_text, count_text
from modelwright.runs.compare import flatten, parse_recipe
from modelwright.runs.directory import Run
from modelwright.runs.eventlog import LoggedEvent, read_events
from modelwright.runs.figures import Figure
from modelwright.runs.markup import Markup, pairs, shown, table, tag, text
from modelwright.runs.measure import Measured
from modelwright.runs.metrics import Row, evaluations
from modelwright.runs.plain import number
from modelwright.runs.scrub import scrub_text

Section = tuple[str, Markup]

_LEVELS = {"error": 0, "warning": 1, "info": 2}
_MOST_EVENTS = 200
_MOST_FILES = 200


def header(run: Run, plan: Plan | None, measured: Measured) -> Markup:
    """Name, status, when and where, what was trained, and what ended it where that was an error."""
    record, status = run.record, run.status()
    pill = tag("span", text(status), class_=f"pill {status}")
    lines = [
        tag("p", f"{tag('span', text(record.verb), class_='verb')} {pill}", class_="above"),
        tag("h1", text(run.name)),
        tag("p", " · ".join(map(text, _when_and_where(run, plan, measured))), class_="facts"),
        _chips(run),
    ]
    if record.error:
        lines.append(_error(record.error))
    return "".join(lines)


def results(run: Run, rows: list[Row], measured: Measured) -> Markup:
    """The last evaluation and the totals as tiles, every summary value as a table."""
    tiles = "".join(_tile(*entry) for entry in [*_last_evaluation(rows), *_totals(measured)][:8])
    summary = flatten(run.record.summary)
    named = [(name.replace("_", " "), text(shown(name, number(value)))) for name, value in summary.items()]
    return (tag("div", tiles, class_="tiles") if tiles else "") + (pairs(named) if named else "")


def predicted(plan: Plan | None, measured: Measured) -> Markup:
    """What the plan expected beside what happened."""
    if plan is None or plan.prediction is None:
        return ""
    expected = plan.prediction
    low, high = expected.step_seconds_low, expected.step_seconds_high
    interval = f"{shown('seconds', low)} to {shown('seconds', high)}"
    lines = [
        _against("Step time", "seconds", expected.step_seconds, measured.step_seconds, interval),
        _against(_peak_name(plan), "bytes", expected.peak_bytes, measured.peak_bytes),
        _against("Samples per second", "", expected.samples_per_second, measured.samples_per_second),
    ]
    inside = low <= measured.step_seconds <= high
    verdict = "inside" if inside else "outside"
    told = f"The measured median step time lies {verdict} the predicted interval." if measured.steps > 0 else ""
    note = tag("p", text(f"{told} Prediction: {expected.source}.".strip()), class_="note")
    columns = ("Quantity", "Predicted", "Measured", "Difference", "Predicted interval")
    return table(columns, lines, numeric=range(1, 5)) + note


def _peak_name(chosen: Plan) -> str:
    """What is predicted is the peak of the largest worker; what is written down is that of rank 0."""
    return "Peak memory" if chosen.workers == 1 else "Peak memory, one worker (measured: rank 0)"


def free(run: Run) -> list[Section]:
    """Sections that the run's maker put into :file:`artifacts/sections.json`.

    It is a list of ``{"title": ..., "text": ..., "table": {"columns": [...], "rows": [[...], ...]}}``, where text
    or table may be missing; text of several lines is shown as it stands, as code is.
    """
    path = run.artifacts / "sections.json"
    if not path.exists():
        return []
    try:
        return [_free_section(entry) for entry in read_json(path)]
    except (ModelwrightError, TypeError, KeyError, AttributeError) as error:
        emit("sections-damaged", f"{path} holds no sections: {error}", level="warning", path=str(path))
        return []


def figures(drawn: Sequence[Figure]) -> Markup:
    """Places for the figures, with words for who cannot see them."""
    if not drawn:
        return tag("p", "No steps were recorded.", class_="note")
    return tag("div", "".join(_figure(figure) for figure in drawn), class_="figures")


def events(run: Run) -> Markup:
    """What was skipped, refused, replaced or changed; warnings first, repetitions counted."""
    logged = read_events(run.events_path)
    if not logged:
        return tag("p", "Nothing was skipped, refused, replaced or changed.", class_="note")
    counts = Counter(_sameness(event) for event in logged)
    first = {_sameness(event): event for event in reversed(logged)}
    ordered = sorted(first.values(), key=lambda event: (_LEVELS.get(event.level, 0), event.time))
    lines = [_event(event, counts[_sameness(event)]) for event in ordered[:_MOST_EVENTS]]
    rest = len(ordered) - len(lines)
    more = tag("p", f"{rest} more in events.jsonl", class_="note") if rest else ""
    return table(("Level", "Event"), lines) + more


def recipe(run: Run) -> Markup:
    """The resolved recipe, its secrets blanked."""
    return _folded("recipe.yaml", tag("pre", text(scrub_text(run.recipe())))) if run.recipe() else ""


def plan(chosen: Plan | None) -> Markup:
    """Each value of the plan with the reason it was chosen for."""
    if chosen is None:
        return ""
    names = [entry.name for entry in fields(chosen) if entry.name not in ("prediction", "reasons")]
    lines = [
        (
            text(name.replace("_", " ")),
            text(_plan_value(getattr(chosen, name))),
            text(chosen.reasons.get(name, "")),
        )
        for name in names
    ]
    return table(("Field", "Value", "Reason"), lines)


def environment(run: Run) -> Markup:
    """What it ran on and in."""
    facts = flatten({name: value for name, value in run.environment().items() if name != "format"})
    named = [(name.replace("_", " "), text(_fact(name, value))) for name, value in facts.items() if value != {}]
    return _folded("env.json", pairs(named)) if named else ""


def files(run: Run) -> Markup:
    """Every file of the run with its size."""
    found = sorted(_sizes(run.path))
    lines = [(text(name), text(bytes_text(size))) for name, size in found[:_MOST_FILES]]
    rest = f", the first {_MOST_FILES} of them listed" if len(found) > _MOST_FILES else ""
    total = f"{len(found)} files, {bytes_text(sum(size for _, size in found))}{rest}"
    return _folded(total, table(("File", "Size"), lines, numeric=(1,)))


def _when_and_where(run: Run, plan: Plan | None, measured: Measured) -> list[str]:
    record, recorded = run.record, run.environment()
    told = [f"started {_moment(record.created)}"]
    if record.ended:
        told.append(f"ended {_moment(record.ended)}")
    if plan is not None:
        workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
        told.append(f"{workers} on {plan.device}, {plan.precision}")
    host = [str(recorded[name]) for name in ("host", "cpu") if recorded.get(name)]
    cores = [f"{recorded['cores']} cores"] if recorded.get("cores") else []
    return [*told, *host, *cores, f"modelwright {record.modelwright}"]


def _chips(run: Run) -> Markup:
    try:
        asked = parse_recipe(run)
    except ModelwrightError as error:
        emit("recipe-unreadable", error.what, level="warning", path=error.where)
        return ""
    used = asked.items() if isinstance(asked, Mapping) else ()
    named = [(key, value["use"]) for key, value in used if isinstance(value, Mapping) and "use" in value]
    chips = "".join(tag("li", f"{tag('span', text(key))} {text(use)}") for key, use in named)
    return tag("ul", chips, class_="chips", aria_label="what was trained") if chips else ""


def _error(error: Mapping[str, str]) -> Markup:
    labels = (("what", ""), ("where", "Where: "), ("remedy", "To do: "))
    lines = (tag("p", text(f"{label}{error[key]}")) for key, label in labels if error.get(key))
    return tag("div", "".join(lines), class_="error", role="note")


def _last_evaluation(rows: list[Row]) -> list[tuple[str, str]]:
    last: dict[str, Any] = {}
    for row in evaluations(rows):
        if row.get("part", "held-out") == "held-out":
            last = row
    return [
        (f"held-out {name.replace('_', ' ')}", shown(name, value))
        for name, value in last.items()
        if name not in ("kind", "step", "time", "seconds", "part") and isinstance(value, (int, float))
    ]


def _totals(measured: Measured) -> list[tuple[str, str]]:
    entries = [
        ("steps", shown("", measured.steps), measured.steps),
        ("training time", shown("seconds", measured.seconds), measured.seconds),
        ("tokens seen", count_text(measured.tokens), measured.tokens),
        ("samples seen", count_text(measured.samples), measured.samples),
        ("tokens per second", count_text(measured.tokens_per_second), measured.tokens_per_second),
        ("peak memory, rank 0", shown("bytes", measured.peak_bytes), measured.peak_bytes),
    ]
    return [(name, value) for name, value, measure in entries if measure > 0]


def _tile(name: str, value: str) -> Markup:
    return tag("div", tag("strong", text(value)) + tag("span", text(name)), class_="tile")


def _against(name: str, unit: str, expected: float, found: float, interval: str = "") -> list[Markup]:
    known = expected > 0 and found == found
    difference = f"{(found / expected - 1) * 100:+.0f} %" if known else shown("", None)
    shown_values = (shown(unit, expected), shown(unit, found), difference, interval or shown("", None))
    return [text(name), *map(text, shown_values)]


def _free_section(entry: Mapping[str, Any]) -> Section:
    content = ""
    if entry.get("text"):
        told = str(entry["text"])
        content = tag("pre" if "\n" in told.strip() else "p", text(told.strip("\n")))
    if entry.get("table"):
        content += _free_table(entry["table"]["columns"], entry["table"]["rows"])
    return str(entry["title"]), content


def _free_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    numeric = [
        place for place in range(len(columns)) if all(isinstance(row[place], (int, float)) for row in rows if row)
    ]
    cells = [[text(shown(str(name), value)) for name, value in zip(columns, row, strict=False)] for row in rows]
    return table([str(name) for name in columns], cells, numeric)


def _figure(figure: Figure) -> Markup:
    place = tag("div", "", class_="plot", id=f"figure-{figure.name}", role="img", aria_label=figure.summary)
    return tag("figure", tag("figcaption", text(figure.title)) + place)


def _sameness(event: LoggedEvent) -> tuple[str, str, str]:
    return event.level, event.kind, event.message


def _event(event: LoggedEvent, count: int) -> list[Markup]:
    level = tag("span", text(event.level), class_=f"pill {event.level if event.level in _LEVELS else ''}")
    told = text(scrub_text(event.message)) + (tag("b", f" &times; {count}") if count > 1 else "")
    place = f"{event.kind} · {event.time[11:19]} UTC · rank {event.rank}"
    return [level, told + tag("code", text(place))]


def _plan_value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {size}" for name, size in value.items())
    return shown("", value)


def _fact(name: str, value: object) -> str:
    if name == "argv" and isinstance(value, list):
        return " ".join(map(str, value))
    return shown(name, value)


def _folded(title: str, content: Markup) -> Markup:
    return tag("details", tag("summary", text(title)) + content)


def _sizes(folder: Path) -> list[tuple[str, int]]:
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file() and path != folder / "report.html":
                sizes.append((path.relative_to(folder).as_posix(), path.stat().st_size))
    return sizes


def _moment(written: str) -> str:
    return written[:16].replace("T", " ") + " UTC"
