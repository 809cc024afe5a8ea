"""The report of a run: one HTML file that needs nothing else, opens anywhere and asks no network."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from modelwright.base.errors import MissingExtra
from modelwright.base.files import write_text
from modelwright.runs import sections
from modelwright.runs.directory import Run
from modelwright.runs.figures import figures
from modelwright.runs.markup import Markup, script_json, tag, text
from modelwright.runs.measure import measure
from modelwright.runs.metrics import read_metrics, steps
from modelwright.runs.seeing import seeing


def write_report(run: Run) -> Path:
    """Write :file:`report.html` into the run and return its path.

    Raises:
        MissingExtra: plotly is not installed.
        ModelwrightError: the run's files are damaged, or the report cannot be written.
    """
    plotly = _plotly()
    rows = read_metrics(run.metrics_path)
    plan = run.plan()
    measured = measure(list(steps(rows)))
    drawn = figures(rows, plan.prediction if plan else None)
    parts = [
        ("Results", sections.results(run, rows, measured)),
        ("Predicted and measured", sections.predicted(plan, measured)),
        *sections.free(run),
        ("Figures", sections.figures(drawn)),
        *seeing(run),
        ("Events", sections.events(run)),
        ("Recipe", sections.recipe(run)),
        ("Plan", sections.plan(plan)),
        ("Environment", sections.environment(run)),
        ("Files", sections.files(run)),
    ]
    page = _page(
        title=run.name,
        header=sections.header(run, plan, measured),
        body="".join(_section(place, *part) for place, part in enumerate(parts) if part[1]),
        links="".join(_link(place, part[0]) for place, part in enumerate(parts) if part[1]),
        data=script_json([figure.to_json() for figure in drawn]),
        plotly=plotly,
    )
    write_text(run.report_path, page)
    return run.report_path


def _page(*, title: str, header: Markup, body: Markup, links: Markup, data: Markup, plotly: str) -> str:
    script = _resource("report.js")
    return Template(_resource("report.html")).substitute(
        policy=text(_policy(plotly, script)),
        title=text(title),
        style=_resource("report.css"),
        header=header,
        links=links,
        body=body,
        data=data,
        plotly=plotly,
        script=script,
    )


def _policy(*scripts: str) -> str:
    """No network at all, and no script but ours: an injected one has another hash and does not run."""
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _section(place: int, title: str, content: Markup) -> Markup:
    heading = tag("h2", text(title), id=f"part-{place}")
    return tag("section", heading + content, aria_labelledby=f"part-{place}")


def _link(place: int, title: str) -> Markup:
    return tag("a", text(title), href=f"#part-{place}")


def _resource(name: str) -> str:
    return resources.files("modelwright.runs").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The script that the plotly package brings along; the package itself need not be imported."""
    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_text(encoding="utf-8").replace("</script", "<\\/script")
    raise MissingExtra("report", "the report's figures")
