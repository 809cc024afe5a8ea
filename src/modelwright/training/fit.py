"""Fit: steps, evaluation and saving in one stream. Every verb calls it; nobody copies it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """A checkpoint was written."""

    step: int
    path: Path


Record = Step | Evaluated | Saved


def fit(
    training: Iterator[Step],
    state: State,
    *,
    evaluate: Callable[[bool], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    save: Callable[[], Path] | None = None,
    save_due: Callable[[], bool] = lambda: False,
    judge: Callable[[dict[str, float]], None] = lambda scores: None,
    ended: Callable[[], bool] = lambda: False,
    settle: Callable[[], None] = lambda: None,
) -> Iterator[Record]:
    """Run ``training`` to its end, or until it stops, evaluating and saving on the way.

    The last state is always saved, also when the run was stopped; the whole of the held-out data is scored when
    the run is complete.

    Args:
        training: the generator :func:`~modelwright.training.steps.steps`.
        state: what it advances.
        evaluate: scores the whole (``True``) or a part of the held-out data; a collective.
        save: writes a checkpoint; a collective.
        evaluate_every: steps between evaluations; ``None`` for only at the end.
        save_due: asked on every rank after each step; all answer alike.
        judge: hears the scores on the way.
        ended: whether the run is complete before its last step, after which ``training`` stops of itself.
        settle: called once when the run is complete and saved: puts the weights in place that are to be kept.

    Yields:
        Every step, evaluation and checkpoint, in the order they happen.
    """
    saved_at = state.step
    for step in training:
        yield step
        last = state.step >= state.total
        if evaluate and evaluate_every and state.step % evaluate_every == 0 and not last:
            scores = evaluate(False)
            yield Evaluated(step=state.step, whole=False, scores=scores)
            judge(scores)
        if save and save_due() and not last:
            yield Saved(step=state.step, path=save())
            saved_at = state.step
    if save and state.step > saved_at:
        yield Saved(step=state.step, path=save())
    if ended() or state.step >= state.total:
        settle()
        if evaluate:
            yield Evaluated(step=state.step, whole=True, scores=evaluate(True))
