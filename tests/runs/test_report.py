from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.runs.synthetic import trained_run

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.runs import EventLog, MetricsWriter, Run
from modelwright.runs.markup import script_json, shown
from modelwright.runs.report import write_report

pytest.importorskip("plotly")

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
_VOID = {"meta", "link", "img", "br", "input", "hr", "base"}


class Page(HTMLParser):
    """What a browser would find: elements, their attributes, the texts of scripts, and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.visible: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.visible.append(data)

    def attribute(self, tag: str, name: str) -> list[str]:
        return [str(given[name]) for found, given in self.elements if found == tag and name in given]


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def evil_run(folder: Path) -> Run:
    run = Run.create(folder, "a <script> & 'name'", "train")
    run.write_recipe(f"model:\n  use: '{EVIL}'\n")
    with MetricsWriter(run.metrics_path) as writer:
        for step in range(3):
            writer.write({"kind": "step", "step": step, "loss": 1.0, f"loss/{EVIL}": 1, "loss/b": 2})
            writer.write({"kind": "evaluation", "step": step, EVIL: 1.0, "part": EVIL})
    log = EventLog(run.events_path)
    log(Event(kind=EVIL, message=f"{EVIL}\u2028", level=EVIL))
    log.close()
    section = {"title": EVIL, "text": f"{EVIL}\n{EVIL}", "table": {"columns": [EVIL], "rows": [[EVIL]]}}
    (run.artifacts / "sections.json").write_text(json.dumps([section]))
    (run.artifacts / "<b>").write_text("")
    run.write_environment(device=EVIL)
    run.update(status="failed", summary={EVIL: EVIL}, error=ModelwrightError(EVIL, where=EVIL, remedy=EVIL))
    return run


def test_the_report_shows_the_run(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    page = Page(write_report(run).read_text())
    text = " ".join(page.visible)
    for word in ("demo-gpt", "finished", "Predicted", "Measured", "58 ms", "1.45 GB", "552", "gzip -9", "2.161",
                 "python-stdlib", "vocabulary: 2048", "step-masked", "model.safetensors", "def read_line",
                 "bf16 took 58 ms a step", "inside the predicted interval"):  # fmt: skip
        assert word in text, word
    assert text.index("the loss was not finite") < text.index("micro-batch 16, bf16")
    figures = json.loads(page.scripts[0])
    assert [f"figure-{figure['name']}" for figure in figures] == page.attribute("div", "id")


def test_the_header_counts_no_idle_time_and_the_peak_is_named(tmp_path: Path) -> None:
    run = trained_run(tmp_path, steps=30)
    record = json.loads((run.path / "run.json").read_text())
    times = {"created": "2026-01-02T03:04:05+00:00", "ended": "2026-01-09T10:11:12+00:00"}
    (run.path / "run.json").write_text(json.dumps(record | times))
    text = " ".join(Page(write_report(run).read_text()).visible)
    assert "started 2026-01-02 03:04 UTC · ended 2026-01-09 10:11 UTC" in text
    assert "peak memory, rank 0" in text
    chosen = run.plan()
    assert chosen is not None
    assert ("measured: rank 0" in text) == (chosen.workers > 1)


def test_nothing_of_the_users_becomes_markup(tmp_path: Path) -> None:
    tame = Page(write_report(trained_run(tmp_path)).read_text())
    evil = Page(write_report(evil_run(tmp_path)).read_text())
    assert len(evil.scripts) == len(tame.scripts) == 3
    assert not [tag for tag, _ in evil.elements if tag in ("img", "iframe", "link", "object", "base", "form")]
    assert not [name for _, given in evil.elements for name in given if name.startswith("on")]
    assert "".join(evil.visible).count("<img src=x onerror=alert(2)>") >= 10  # it is there, as text
    names = [trace["name"] for figure in json.loads(evil.scripts[0]) for trace in figure["data"]]
    assert any("&lt;script&gt;" in name for name in names) and not any("<" in name for name in names)
    assert evil.open == []


def test_the_search_for_markup_can_fail(tmp_path: Path) -> None:
    path = write_report(evil_run(tmp_path))
    spoiled = Page(path.read_text().replace("&lt;img", "<img").replace("&gt;", ">"))
    assert [tag for tag, _ in spoiled.elements if tag == "img"]


def test_only_our_scripts_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = Page(write_report(trained_run(tmp_path, steps=30)).read_text())
    policy = next(given["content"] for _, given in page.elements if given.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    data, *code = page.scripts
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code} == allowed
    assert json.loads(data)
    assert not page.attribute("script", "src") and not page.attribute("img", "src")
    assert all(target.startswith("#") for target in page.attribute("a", "href"))
    assert 'plotlyServerURL: ""' in code[1] and "modeBarButtons: [[" in code[1]  # no button uploads a figure
    style = (Path(__file__).parents[2] / "src/modelwright/runs/report.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_it_is_fit_for_phones_keyboards_and_the_dark(tmp_path: Path) -> None:
    source = write_report(trained_run(tmp_path, steps=30)).read_text()
    page = Page(source)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert "prefers-color-scheme: dark" in source and "tabular-nums" in source
    targets = {value.removeprefix("#") for value in page.attribute("a", "href")}
    ids = {given["id"] for _, given in page.elements if "id" in given}
    assert targets <= ids
    labels = [given.get("aria-label") for _, given in page.elements if given.get("role") == "img"]
    assert len(labels) == 7 and all(labels)


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "empty", "train")
    page = Page(write_report(run).read_text())
    assert "No steps were recorded." in page.visible
    run.recipe_path.write_text("a: [")
    run.metrics_path.write_text('{"kind": "step", "step"')
    (run.artifacts / "sections.json").write_text('[{"no": 1}]')
    told: list[Event] = []
    with listening(told.append):
        write_report(run)
    assert {event.kind for event in told} == {"recipe-unreadable", "sections-damaged"}


def test_without_plotly_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    run = Run.create(tmp_path, "r", "train")
    with pytest.raises(MissingExtra) as caught:
        write_report(run)
    assert "modelwright[report]" in caught.value.remedy


def test_json_in_a_script_cannot_end_it() -> None:
    value = {"a": "</script><!--&\u2028\u2029", "b": float("nan")}
    written = script_json(value)
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {"a": value["a"], "b": "nan"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 1500, "1,500"),
        ("loss", 2.04567, "2.046"),
        ("train_seconds", 75.0, "1m15s"),
        ("peak_bytes", 2_500_000, "2.5 MB"),
        ("x", True, "yes"),
        ("x", None, "\u2013"),
        ("x", float("nan"), "\u2013"),
        ("x", [1], "[1]"),
    ],
)
def test_values_are_shown_for_people(name: str, value: object, expected: str) -> None:
    assert shown(name, value) == expected


def test_the_door_and_the_report_stay_light() -> None:
    code = "import sys, modelwright.runs; print([n for n in ('torch', 'plotly', 'numpy') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = "import sys, modelwright.runs.report; print([n for n in ('torch', 'plotly') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
