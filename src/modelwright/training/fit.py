"""Fit: steps, evaluation and saving in one stream. Every verb calls it; nobody copies it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from modelwright.runs.weights import step_of
from modelwright.training.state import State
from modelwright.training.steps import Step


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Held-out scores.

    Attributes:
        step: after so many steps.
        whole: all of the held-out data, or a part of it.
        scores: ``loss`` and the metrics by name.
    """

    step: int
    whole: bool
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint is on the disk, whole; on the rank that writes.

    Attributes:
        step: after so many steps; later ones may have been taken since.
        path: the folder.
    """

    step: int
    path: Path


Record = Step | Evaluated | Saved


class Saves(Protocol):
    """Saves the state: :class:`modelwright.training.checkpoints.Saver`."""

    def observe(self, scores: Mapping[str, float]) -> None:
        """Hear the scores on the way."""
        ...

    def begin(self) -> None:
        """Take the state as it is and begin to write it; a collective."""
        ...

    def written(self) -> list[Path]:
        """What has been written since this was asked last."""
        ...

    def finish(self) -> list[Path]:
        """The same, when all is written; a collective."""
        ...

    def leave(self) -> None:
        """Wait for what is being written, and raise nothing."""
        ...


def fit(
    training: Generator[Step, None, None],
    state: State,
    *,
    evaluate: Callable[[bool], dict[str, float] | None] | None = None,
    evaluate_every: int | None = None,
    saver: Saves | None = None,
    save_due: Callable[[], bool] = lambda: False,
    judge: Callable[[dict[str, float]], None] = lambda scores: None,
    ended: Callable[[], bool] = lambda: False,
    settle: Callable[[], None] = lambda: None,
) -> Generator[Record, None, None]:
    """Run ``training`` to its end, or until it stops, evaluating and saving on the way.

    The last state is always saved, also when the run was stopped; the whole of the held-out data is scored when
    the run is complete. Whatever ends the stream but Ctrl-C, it ends only when nothing is being written any more.

    Args:
        training: the generator :func:`~modelwright.training.steps.steps`.
        state: what it advances.
        evaluate: scores the whole (``True``) or a part of the held-out data; a collective. ``None`` on the way means
            that a stop is wished: training ends, and that step is scored first when it goes on.
        saver: writes checkpoints.
        evaluate_every: steps between evaluations; ``None`` for only at the end.
        save_due: asked on every rank after each step; all answer alike.
        judge: hears the scores on the way.
        ended: whether the run is complete before its last step, after which ``training`` stops of itself.
        settle: called once when the run is complete and saved: puts the weights in place that are to be kept.

    Yields:
        Every step and evaluation in the order they happen; every checkpoint once it is on the disk.
    """
    with _left_in_order(saver):
        saved_at = state.step
        with closing(training):  # before the last save: it may tell that the steps before were left out, and fail
            for step in chain([None], training):
                if step is not None:
                    yield step
                if evaluate and _unscored(state, evaluate_every):
                    yield from _scored(state, evaluate, judge, saver)
                    if _unscored(state, evaluate_every):
                        break
                if saver:
                    yield from _told(saver.written())
                if saver and step is not None and save_due() and state.step < state.total:
                    saver.begin()
                    saved_at = state.step
        if saver and state.step > saved_at:
            saver.begin()
        if saver:
            yield from _told(saver.finish())
        if ended() or state.step >= state.total:
            settle()
            if evaluate and (scores := evaluate(True)) is not None:
                yield Evaluated(step=state.step, whole=True, scores=scores)


def _unscored(state: State, every: int | None) -> bool:
    """Whether the step just done is to be scored on the way, and is not yet; a stop may have come in between."""
    on_the_way = every is not None and 0 < state.step < state.total and state.step % every == 0
    return on_the_way and state.scored < state.step


def _scored(
    state: State,
    evaluate: Callable[[bool], dict[str, float] | None],
    judge: Callable[[dict[str, float]], None],
    saver: Saves | None,
) -> Iterator[Evaluated]:
    scores = evaluate(False)
    if scores is None:
        return
    state.scored = state.step
    yield Evaluated(step=state.step, whole=False, scores=scores)
    judge(scores)
    if saver:
        saver.observe(scores)


def _told(paths: Sequence[Path]) -> Iterator[Saved]:
    return (Saved(step=step_of(path.name), path=path) for path in paths)


@contextmanager
def _left_in_order(saver: Saves | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:  # to leave at once
        raise
    except BaseException:
        if saver:
            saver.leave()
        raise
