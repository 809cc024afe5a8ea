"""Which checkpoints are kept: the newest, and those with the best held-out score on the way."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json, speaking, write_json
from modelwright.runs.weights import BEST, list_checkpoints, step_of

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Score:
    """A held-out score on the way.

    Attributes:
        monitor: ``loss`` or the name of a metric.
        better: which direction is better.
        value: the score; finite.
        step: that was scored: of the checkpoint, or the nearest before.
    """

    monitor: str
    better: Literal["lower", "higher"]
    value: float
    step: int

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return vars(self)


def score_in(manifest: Mapping[str, Any]) -> Score | None:
    """The score that a manifest tells of, if any."""
    found = manifest.get("score")
    try:
        score = Score(**found) if isinstance(found, dict) else None
    except TypeError:
        return None
    return score if score is not None and math.isfinite(score.value) else None


def score_of(path: Path) -> Score | None:
    """The score of a checkpoint on disk; ``None`` where there is none or it cannot be read."""
    try:
        manifest = read_json(path / MANIFEST)
    except ModelwrightError:
        return None
    return score_in(manifest) if isinstance(manifest, dict) else None


def best_names(scores: Mapping[str, Score | None], count: int) -> list[str]:
    """The ``count`` best of several checkpoints, best first.

    Of those with the same score, the one nearest to the step that was scored. Scores of another monitor than the
    newest one's do not count.
    """
    scored = {name: score for name, score in scores.items() if score is not None}
    if not scored:
        return []
    newest = scored[max(scored, key=step_of)]

    def rank(name: str) -> tuple[float, int]:
        score = scored[name]
        return (score.value if newest.better == "lower" else -score.value, step_of(name) - score.step)

    same = [name for name in scored if scored[name].monitor == newest.monitor]
    return sorted(same, key=rank)[:count]


def superfluous(names: Sequence[str], newest: str, keep: int, best: Sequence[str]) -> list[str]:
    """Of ``names``, newest first: all but ``best``, ``newest`` and those before it, ``keep`` in all.

    One of a later step than ``newest`` is damaged, or training would be there.
    """
    earlier = [name for name in names if step_of(name) <= step_of(newest)]
    kept = {*earlier[:keep], *best}
    return [name for name in names if name not in kept]


def drop_others(newest: Path, keep: int, keep_best: int = 0) -> None:
    """Leave ``newest``, the ``keep`` newest and the best; name the best in ``best.json``.

    Raises:
        ModelwrightError: no permission.
    """
    folder = newest.parent
    names = [path.name for path in list_checkpoints(folder)]
    scores = {name: score_of(folder / name) for name in names if step_of(name) <= step_of(newest.name)}
    best = best_names(scores, keep_best)
    if best:
        rows = [{"name": name, **score.to_json()} for name in best if (score := scores[name]) is not None]
        write_json(folder / BEST, {"format": 1, "best": rows})
    with speaking(folder):
        for name in superfluous(names, newest.name, keep, best):
            _remove(folder / name)


def forget_best(folder: Path, keep_best: int) -> None:
    """Name no best ones any more where none are kept: what was named is in nobody's care, and goes with the next save.

    Raises:
        ModelwrightError: no permission.
    """
    if keep_best == 0:
        with speaking(folder):
            (folder / BEST).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Out of sight first: a kill in between leaves nothing that looks like a checkpoint."""
    hidden = path.with_name(f".{path.name}.dropped")
    path.rename(hidden)
    shutil.rmtree(hidden)
