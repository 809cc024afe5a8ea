"""What a training looks like on the screen: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from modelwright.app.planner import describe
from modelwright.base.plan import Plan
from modelwright.base.units import bytes_text, count_text, seconds_text
from modelwright.runs import Run

QUIET_SECONDS = 10.0
_PARTS = {"held-out": "held out", "held-out-part": "held out (a part)"}
_NARROW = 30  # columns, below which words are not wrapped any more
Row = Mapping[str, Any]

_NO_SCORE = ("seconds", "time")


class Told(Protocol):
    """An event, as it happens or as it was logged."""

    @property
    def level(self) -> str:
        """``info``, ``warning`` or ``error``."""
        ...

    @property
    def kind(self) -> str:
        """Short machine-readable name."""
        ...

    @property
    def message(self) -> str:
        """One sentence."""
        ...


class TrainingScreen:
    """Shows metric rows as they come.

    Args:
        console: where to show.
        total: steps in all.
        workers: how many processes share the memory shown.
    """

    def __init__(self, console: Console, *, total: int, workers: int = 1) -> None:
        self._console = console
        self._workers = workers
        self._total = total
        self._loss = math.nan
        self._rate = _Rate()
        self._spoken = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.fields[head]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[tail]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("train", total=total, head="starting", tail="")
        self._live = Live(self._progress, console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> TrainingScreen:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.refresh()
            self._live.stop()

    def show(self, row: Row) -> None:
        """Show one metric row."""
        if row["kind"] == "step":
            self._step(row)
        elif row["kind"] == "evaluation":
            scores = {name: value for name, value in row.items() if isinstance(value, float) and name not in _NO_SCORE}
            shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            self._console.print(
                f"  step {row['step']}: {_PARTS.get(row['part'], row['part'])}: {shown}", highlight=False
            )

    def say(self, event: Told) -> None:
        """Show an event a person should know of."""
        speaker(self._console)(event)

    def _step(self, row: Row) -> None:
        loss = float(row["loss"])
        if math.isfinite(loss):
            self._loss = loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
        self._rate.add(row)
        left = (self._total - row["step"]) * self._rate.step_seconds
        head = f"step {row['step']}/{self._total}  loss {self._loss:.4f}"
        tail = f"{self._rate.text}  {self._memory(row)}  {seconds_text(left) if left >= 1 else '0 s'} left"
        self._progress.update(self._task, completed=row["step"], head=head, tail=tail)
        if not self._live and time.monotonic() - self._spoken > QUIET_SECONDS:
            self._spoken = time.monotonic()
            self._console.print(f"  {head}  {tail}", highlight=False)

    def _memory(self, row: Row) -> str:
        used = bytes_text(row["memory_bytes"] * self._workers)
        return f"{used} in all" if self._workers > 1 else f"{used} of memory"


def announce_run(console: Console, run: Run) -> None:
    """Say which run this is and where it lies."""
    name, path = escape(run.name), escape(str(run.path))
    console.print(f"run    [bold]{name}[/] in {path}", highlight=False, soft_wrap=True)


def announce_plan(console: Console, plan: Plan) -> None:
    """Say how it will run."""
    console.print(f"plan   {describe(plan)}", highlight=False, soft_wrap=True)


def speaker(console: Console) -> Callable[[Told], None]:
    """A listener that shows the events a person should know of."""

    def say(event: Told) -> None:
        if event.level != "info":
            console.print(f"[yellow]![/] {escape(event.message)}", highlight=False)
        elif event.kind == "resumed":
            console.print(f"resume {escape(event.message)}", highlight=False)

    return say


class _Rate:
    """Smoothed speed."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.text = ""
        self._last: Row | None = None

    def add(self, row: Row) -> None:
        taken = float(row["step_seconds"])
        self.step_seconds = taken if not self.step_seconds else 0.9 * self.step_seconds + 0.1 * taken
        unit = "tokens" if "tokens" in row else "samples"
        before = self._last[unit] if self._last and unit in self._last else None
        if before is not None:
            self.text = f"{count_text((row[unit] - before) / self.step_seconds)} {unit}/s"
        self._last = row


class Whole(str):
    """A value that stays in one line of a table: a path or a command, to be copied."""


@dataclass(frozen=True)
class _Facts:
    """Names and values, one below the other; to be printed with ``soft_wrap`` where no path is to be cut."""

    title: str
    rows: Mapping[str, object]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(self.title, style="bold")
        margin = max((cell_len(name) for name in self.rows), default=0) + 2
        for name, value in self.rows.items():
            room = max(options.max_width - margin, _NARROW)
            first, *rest = _lines(value, room, whole_words=options.overflow == "ignore")
            yield Text.assemble((name, "cyan"), " " * (margin - cell_len(name)), first)
            yield from (Text(" " * margin + line) for line in rest)


def table(title: str, rows: Mapping[str, object]) -> RenderableType:
    """Two columns: what and how much; a path stays in one line."""
    return _Facts(title, rows)


def steps_text(count: int) -> str:
    """``1`` -> ``"1 step"``."""
    return "1 step" if count == 1 else f"{count} steps"


def _lines(value: object, room: int, *, whole_words: bool) -> list[str]:
    if isinstance(value, Whole) and whole_words:
        return [str(value)]
    wrapper = textwrap.TextWrapper(room, break_long_words=not whole_words, break_on_hyphens=False)
    return [line for part in str(value).splitlines() for line in wrapper.wrap(part)] or [""]
