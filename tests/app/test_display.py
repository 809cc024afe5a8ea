"""What training looks like on a terminal and elsewhere."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from modelwright.app.display import TrainingScreen, Whole, announce_run, speaker, steps_text, table
from modelwright.base.events import Event
from modelwright.runs import Run


def terminal(width: int = 100) -> Console:
    return Console(record=True, file=io.StringIO(), force_terminal=True, width=width)


def pipe() -> Console:
    return Console(record=True, file=io.StringIO(), force_terminal=False, width=100)


def step(number: int, loss: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": number,
        "loss": loss,
        "samples": 32 * number,
        "step_seconds": 0.5,
        "memory_bytes": 300_000_000,
        **more,
    }


def test_a_terminal_shows_one_live_line() -> None:
    console = terminal()
    with TrainingScreen(console, total=10, workers=2) as screen:
        for number in range(1, 5):
            screen.show(step(number, tokens=1000 * number))
    drawn = console.export_text()
    line = drawn[drawn.rindex("step ") :].splitlines()[0]  # as it was drawn last
    assert "step 4/10  loss 2.0000" in line
    assert "2k tokens/s" in line  # 1000 tokens in half a second
    assert "600 MB in all" in line  # of two workers
    assert "3 s left" in line  # 6 steps of half a second
    assert len(line) <= 100


def test_samples_are_counted_where_there_are_no_tokens() -> None:
    console = terminal()
    with TrainingScreen(console, total=2) as screen:
        screen.show(step(1))
        screen.show(step(2))
    assert "64 samples/s" in console.export_text()


def test_elsewhere_nothing_is_redrawn() -> None:
    console = pipe()
    with TrainingScreen(console, total=10) as screen:
        for number in range(1, 5):
            screen.show(step(number))
    assert console.export_text() == ""
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_elsewhere_a_line_comes_now_and_then() -> None:
    console = pipe()
    with TrainingScreen(console, total=10) as screen:
        screen._spoken -= 11.0
        screen.show(step(1))
        screen.show(step(2))
    (line,) = console.export_text().splitlines()
    assert line.startswith("  step 1/10  loss 2.0000")


def test_the_loss_is_smoothed_and_survives_a_masked_step() -> None:
    console = terminal()
    with TrainingScreen(console, total=10) as screen:
        screen.show(step(1, loss=1.0))
        screen.show(step(2, loss=math.nan))
        screen.show(step(3, loss=2.0))
    assert "loss 1.1000" in console.export_text()


def test_evaluations_and_warnings_are_said() -> None:
    console = pipe()
    with TrainingScreen(console, total=10) as screen:
        screen.show(
            {"kind": "evaluation", "step": 5, "seconds": 1.0, "loss": 0.5, "accuracy": 0.91, "part": "held-out"}
        )
        screen.show({"kind": "evaluation", "step": 6, "seconds": 1.0, "loss": 0.25, "part": "held-out-part"})
        screen.say(Event(kind="step-masked", message="step 5 [rank 0] was left out", level="warning"))
        screen.say(Event(kind="saved", message="checkpoint of step 5"))
    assert console.export_text().splitlines() == [
        "  step 5: held out: loss 0.5, accuracy 0.91",
        "  step 6: held out (a part): loss 0.25",
        "! step 5 [rank 0] was left out",
    ]


def test_errors_are_said_too() -> None:
    console = pipe()
    speaker(console)(Event(kind="warm-parent-died", message="it died", level="error"))
    assert console.export_text() == "! it died\n"


def test_a_name_with_brackets_and_a_long_path_stay_whole() -> None:
    console = pipe()
    run = Run(Path("/very" + "/long" * 30) / "a[bold]b")
    announce_run(console, run)
    assert console.export_text() == f"run    a[bold]b in {run.path}\n"


def test_a_table_keeps_what_is_in_it() -> None:
    console = terminal(60)
    console.print(table("Title", {"name": "a [red]value[/]", "path": "x" * 100}))
    text = console.export_text()
    assert "a [red]value[/]" in text
    assert text.count("x") == 100


def test_a_path_stays_in_one_line_and_words_wrap() -> None:
    console, path, title = terminal(60), Whole("/very folder" + "/long" * 20), "a title " * 6 + "is one line"
    console.print(table(title, {"path": path, "told": "several words " * 10}), soft_wrap=True)
    first, second, *rest = console.export_text().splitlines()
    assert (first, second) == (title, f"path  {path}")
    assert len(rest) == 3
    assert all(line.startswith(("told  several", "      ")) and len(line) <= 60 for line in rest)


def test_one_step_is_singular() -> None:
    assert [steps_text(count) for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
