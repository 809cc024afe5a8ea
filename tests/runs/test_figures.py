from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
from tests.runs.synthetic import plan, write_metrics

from modelwright.runs import read_metrics
from modelwright.runs.figures import LIMIT, figures
from modelwright.runs.measure import measure, rate, smoothed
from modelwright.runs.metrics import Row, steps


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    path = tmp_path_factory.mktemp("metrics") / "m"
    write_metrics(path, 5000)
    return read_metrics(path)


def test_every_figure_is_there_and_plain(rows: list[Row]) -> None:
    made = {figure.name: figure for figure in figures(rows, plan().prediction)}
    assert list(made) == [
        "loss", "evaluation-0", "evaluation-1", "throughput", "memory", "learning-rate", "gradient-norm",
    ]  # fmt: skip
    json.dumps([figure.to_json() for figure in made.values()], allow_nan=False)
    assert [trace["name"] for trace in made["loss"].data] == ["each step", "smoothed", "masked step"]
    assert [trace["name"] for trace in made["evaluation-0"].data] == ["held-out-part", "held-out"]
    assert made["evaluation-0"].title == "Held out: bits per byte"
    assert "lowest" in made["loss"].summary


def test_no_trace_has_too_many_points(rows: list[Row]) -> None:
    traces = [trace for figure in figures(rows) for trace in figure.data]
    assert max(len(trace["x"]) for trace in traces) == LIMIT == 2000
    assert all(len(trace["x"]) == len(trace["y"]) for trace in traces)


def test_predictions_are_drawn_in_the_figures_units(rows: list[Row]) -> None:
    made = {figure.name: figure for figure in figures(rows, plan().prediction)}
    assert made["memory"].data[-1]["y"] == [1.45, 1.45]
    assert made["throughput"].data[-1]["y"] == [552 * 256] * 2


def test_terms_are_shown_where_there_are_several() -> None:
    made = figures([{"kind": "step", "step": n, "loss": 3, "loss/a": 1, "loss/b": 2} for n in range(5)])
    assert [trace["name"] for trace in made[0].data] == ["each step", "smoothed", "a", "b"]


def test_nothing_to_draw_draws_nothing() -> None:
    assert figures([]) == []
    assert figures([{"kind": "step", "step": 1, "loss": math.nan, "masked": True}]) == []
    single = figures([{"kind": "step", "step": 1, "loss": 2.0}])
    assert [figure.name for figure in single] == ["loss"] and single[0].data[0]["mode"] == "lines+markers"


def test_odd_rows_do_no_harm() -> None:
    odd: list[Row] = [
        {"kind": "step", "step": 1, "loss": "high", "seconds": 0, "samples": 3},
        {"kind": "step", "loss": 1.0},
        {"kind": "evaluation", "step": 1, "accuracy": math.nan, "note": "text"},
        {},
    ]
    assert all(figure.data for figure in figures(odd, plan().prediction))


def test_measured_values_are_the_plain_ones(rows: list[Row]) -> None:
    trained = list(steps(rows))
    measured = measure(trained)
    assert measured.step_seconds == pytest.approx(statistics.median(row["step_seconds"] for row in trained))
    assert measured.peak_bytes == 1.33e9 and measured.samples == 160_000 and measured.steps == 5000
    assert measured.samples_per_second == pytest.approx(32 / measured.step_seconds, rel=1e-3)
    assert math.isnan(measure([]).step_seconds)


def test_rates_leave_out_what_stands_still() -> None:
    moments = ((1.0, 10), (2.0, 30), (2.0, 30), (4.0, 30), (5.0, 35))
    rates = rate([{"seconds": seconds, "samples": samples} for seconds, samples in moments], "samples")
    assert np.isnan(rates[2:4]).all() and rates[[0, 1, 4]].tolist() == [10, 20, 5]


def test_smoothing_is_a_running_mean_of_finite_values() -> None:
    values = np.random.default_rng(1).normal(size=400)
    values[[5, 200]] = np.nan
    expected = [np.nanmean(values[max(0, place - 4) : place + 5]) for place in range(400)]
    np.testing.assert_allclose(smoothed(values), expected, rtol=1e-10, atol=1e-13)
