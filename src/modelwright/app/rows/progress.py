"""A bar for work that goes through rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def counting(console: Console, what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; call what it yields with the number of rows that were finished.

    Args:
        console: where.
        what: the word in front of the bar.
        total: rows in all, if known.
        done: rows that were finished before.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f} rows" if total is None else "{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda rows: progress.advance(task, rows)
