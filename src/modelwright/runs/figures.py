"""Figures of a run as plain Plotly dictionaries: data and layout, no colours (the page's style has them)."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.base.plan import Prediction
from modelwright.base.units import count_text
from modelwright.runs.downsample import downsample
from modelwright.runs.measure import Series, column, rate, smoothed
from modelwright.runs.metrics import Row, evaluations, steps

LIMIT = 2000

_NO_METRIC = ("kind", "step", "time", "seconds", "part")
_MODULE_NORM = "gradient_norm/"
_MOST_MODULES = 16
_MEMORY_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        name: fit for an HTML id.
        title: what it shows.
        summary: what a reader who cannot see it should know.
        data, layout: as Plotly takes them. A trace's ``meta.role`` (``raw``, ``main``, ``other``,
            ``predicted``, ``masked``) tells the page how to draw it.
    """

    name: str
    title: str
    summary: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The figure for the page."""
        return {"name": self.name, "data": self.data, "layout": self.layout}


def figures(rows: list[Row], prediction: Prediction | None = None) -> list[Figure]:
    """Every figure for which the rows hold values."""
    trained = list(steps(rows))
    made = [
        loss_figure(trained),
        *evaluation_figures(list(evaluations(rows))),
        throughput_figure(trained, prediction),
        memory_figure(trained, prediction),
        learning_rate_figure(trained),
        gradient_norm_figure(trained),
        module_norms_figure([row for row in rows if row.get("kind") == "gradients"]),
    ]
    return [figure for figure in made if figure is not None]


def loss_figure(trained: list[Row]) -> Figure | None:
    """Training loss of each step, smoothed, with its terms where there are several, and masked steps."""
    x, y = column(trained, "step"), column(trained, "loss")
    if not np.isfinite(y).any():
        return None
    traces = [_line("each step", x, y, "raw"), _line("smoothed", x, smoothed(y), "main"), *_terms(trained, x)]
    masked = np.array([bool(row.get("masked")) for row in trained])
    if masked.any():
        traces.append(_points("masked step", x[masked], np.full(masked.sum(), np.nanmin(_finite(y)))))
    return _figure("loss", "Training loss", "loss", traces, smoothed(y))


def evaluation_figures(evaluated: list[Row]) -> list[Figure]:
    """One figure for each metric of the evaluations, a line for each part of the data."""
    names = dict.fromkeys(name for row in evaluated for name in row if name not in _NO_METRIC)
    made = (_evaluation_figure(str(name), evaluated, place) for place, name in enumerate(names))
    return [figure for figure in made if figure is not None]


def throughput_figure(trained: list[Row], prediction: Prediction | None = None) -> Figure | None:
    """Tokens per second where there are tokens, else samples, with the predicted rate."""
    x, tokens, samples = column(trained, "step"), rate(trained, "tokens"), rate(trained, "samples")
    word, values = ("tokens/s", tokens) if np.isfinite(tokens).any() else ("samples/s", samples)
    if not np.isfinite(values).any():
        return None
    traces = [_line("each step", x, values, "raw"), _line("smoothed", x, smoothed(values), "main")]
    if prediction is not None:
        per_sample = 1.0 if word == "samples/s" else float(np.nanmedian(tokens / samples))
        traces.append(_level("predicted", x, prediction.samples_per_second * per_sample))
    return _figure("throughput", "Throughput", word, traces, values, zero=True)


def memory_figure(trained: list[Row], prediction: Prediction | None = None) -> Figure | None:
    """Memory of one worker, with the predicted peak."""
    x, y = column(trained, "step"), column(trained, "memory_bytes")
    if not np.isfinite(y).any():
        return None
    unit, size = next((entry for entry in _MEMORY_UNITS if np.nanmax(_finite(y)) >= entry[1]), ("B", 1.0))
    traces = [_line("one worker", x, y / size, "main")]
    if prediction is not None:
        traces.append(_level("predicted peak", x, prediction.peak_bytes / size))
    return _figure("memory", "Memory", unit, traces, y / size, zero=True)


def learning_rate_figure(trained: list[Row]) -> Figure | None:
    """Learning rate of each step."""
    x, y = column(trained, "step"), column(trained, "learning_rate")
    if not np.isfinite(y).any():
        return None
    return _figure("learning-rate", "Learning rate", "", [_line("learning rate", x, y, "main")], y, zero=True)


def gradient_norm_figure(trained: list[Row]) -> Figure | None:
    """Norm of the gradients before clipping; logarithmic where it spans more than two powers of ten."""
    x, y = column(trained, "step"), column(trained, "gradient_norm")
    if not np.isfinite(y).any():
        return None
    traces = [_line("each step", x, y, "raw"), _line("smoothed", x, smoothed(y), "main")]
    made = _figure("gradient-norm", "Gradient norm", "", traces, y)
    positive = y[np.isfinite(y) & (y > 0)]
    if len(positive) and positive.max() > 100 * positive.min():
        made.layout["yaxis"]["type"] = "log"
    return made


def module_norms_figure(looked: list[Row]) -> Figure | None:
    """Norms of the gradients of each module, on a logarithmic axis; of many modules those with the largest."""
    names = list(dict.fromkeys(name for row in looked for name in row if name.startswith(_MODULE_NORM)))
    x, columns = column(looked, "step"), {name: column(looked, name) for name in names}
    seen = {name: y for name, y in columns.items() if np.isfinite(y).any()}
    if not seen:
        return None
    largest = sorted(seen, key=lambda name: -float(np.nanmedian(np.where(np.isfinite(seen[name]), seen[name], np.nan))))
    chosen = [name for name in seen if name in largest[:_MOST_MODULES]]
    traces = [_line(name.removeprefix(_MODULE_NORM), x, seen[name], "other") for name in chosen]
    more = f", the {_MOST_MODULES} largest of {len(seen)}" if len(seen) > _MOST_MODULES else ""
    values = np.concatenate([seen[name] for name in chosen])
    made = _figure("module-norms", f"Gradient norm by module{more}", "", traces, values)
    made.layout["yaxis"]["type"] = "log"
    return made


def _evaluation_figure(name: str, evaluated: list[Row], place: int) -> Figure | None:
    having = [row for row in evaluated if isinstance(row.get(name), (int, float))]
    parts = list(dict.fromkeys(str(row.get("part", "held-out")) for row in having))
    traces = [
        _line(part, column(chosen, "step"), column(chosen, name), "main" if index == 0 else "other", marks=True)
        for index, part in enumerate(parts)
        if (chosen := [row for row in having if row.get("part", "held-out") == part])
    ]
    values = column(having, name)
    if not np.isfinite(values).any():
        return None
    return _figure(f"evaluation-{place}", f"Held out: {name.replace('_', ' ')}", "", traces, values)


def _terms(trained: list[Row], x: Series) -> Iterator[dict[str, Any]]:
    names = dict.fromkeys(name for row in trained for name in row if name.startswith("loss/"))
    if len(names) < 2:
        return
    for name in names:
        yield _line(name.removeprefix("loss/"), x, smoothed(column(trained, name)), "other")


def _figure(
    name: str, title: str, unit: str, traces: list[dict[str, Any]], values: Series, zero: bool = False
) -> Figure:
    return Figure(
        name=name,
        title=title,
        summary=_summary(title, unit, values),
        data=traces,
        layout={
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"title": {"text": unit}, **({"rangemode": "tozero"} if zero else {})},
            "showlegend": len(traces) > 1,
        },
    )


def _summary(title: str, unit: str, values: Series) -> str:
    finite = _finite(values)
    words = ("first", finite[0]), ("last", finite[-1]), ("lowest", finite.min()), ("highest", finite.max())
    told = ", ".join(f"{word} {count_text(value)}" for word, value in words)
    return f"{title}: {told} {unit}".rstrip()


def _line(name: str, x: Series, y: Series, role: str, marks: bool = False) -> dict[str, Any]:
    x, y = downsample(x, y, LIMIT)
    mode = "lines+markers" if marks or np.isfinite(y).sum() == 1 else "lines"
    return _trace(name, x, y, role, mode)


def _points(name: str, x: Series, y: Series) -> dict[str, Any]:
    x, y = downsample(x, y, LIMIT)
    return _trace(name, x, y, "masked", "markers")


def _level(name: str, x: Series, value: float) -> dict[str, Any]:
    ends = _finite(x)[[0, -1]]
    return _trace(name, ends, np.full(2, value), "predicted", "lines")


def _trace(name: str, x: Series, y: Series, role: str, mode: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": html.escape(name, quote=False),  # Plotly would draw tags and make links of them
        "x": [int(value) if value.is_integer() else value for value in x.tolist()],
        "y": [float(f"{value:.6g}") if np.isfinite(value) else None for value in y.tolist()],
        "meta": {"role": role},
    }


def _finite(values: Series) -> Series:
    return values[np.isfinite(values)]
