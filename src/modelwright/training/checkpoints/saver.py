"""Saver: a snapshot while training waits, everything else in the background."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.base.units import seconds_text
from modelwright.runs.weights import find_damage, step_of
from modelwright.training.checkpoints.background import Background, await_writing
from modelwright.training.checkpoints.keeping import Score, drop_others, forget_best, score_of
from modelwright.training.checkpoints.owner import claim
from modelwright.training.checkpoints.snapshot import Contents, Snapshot, take_gathered
from modelwright.training.checkpoints.storing import CheckpointStore, missing, open_store
from modelwright.training.checkpoints.writing import clear_leftovers, write
from modelwright.training.settings import Saving
from modelwright.training.state import State
from modelwright.training.weights import Weights

TOLD_SECONDS = 0.1  # of waiting; less is not worth a line


class Saver:
    """Saves a training now and then. Rank 0 copies and writes; the others go on at once.

    Of a divided model all send their pieces to rank 0 first.

    One write is under way at a time: a save that comes before the end of the one before waits for it, and an event
    says how long. What fails in the background is raised by the next call.

    Args:
        state: to be saved.
        folder: where checkpoints lie.
        group: the ranks that train together.
        saving: what is kept, and where else.
        weights: knows the weights to be scored, where they are not those in training.
        monitor: name of the score that tells the best checkpoints, and which direction is better.
        before: called on every rank before each snapshot; a collective.
        permit: asked where rank 0 writes, before it begins and before it publishes; raises where it may not.

    Raises:
        ModelwrightError: the store cannot be written to, or is that of another run.
    """

    def __init__(
        self,
        state: State,
        folder: Path,
        group: Group,
        saving: Saving,
        *,
        weights: Weights | None = None,
        monitor: tuple[str, Literal["lower", "higher"]] = ("loss", "lower"),
        before: Callable[[], None] = lambda: None,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._state, self._folder, self._group, self._saving = state, folder, group, saving
        self._weights, self._monitor, self._before, self._permit = weights, monitor, before, permit
        self._writes = group.rank == 0
        self._snapshot, self._background = Snapshot(), Background(folder)
        self._store = _checked_store(saving, folder) if self._writes else None
        self._unstored: ModelwrightError | None = None
        self._written: list[Path] = []
        self._score: Score | None = None
        if self._writes:
            await_writing(folder)
            clear_leftovers(folder)
            forget_best(folder, saving.keep_best)
            self._score = score_of(folder / f"step-{state.step:08d}")
        if self._store is not None:
            self._background.start(partial(self._catch_up, self._store, state.step))

    def observe(self, scores: Mapping[str, float]) -> None:
        """Hear the held-out scores of the weights as they are; the next checkpoints go by them."""
        monitor, better = self._monitor
        value = scores.get(monitor, math.nan)
        self._score = Score(monitor, better, value, self._state.step) if math.isfinite(value) else None

    def begin(self) -> None:
        """Take a snapshot and let it be written; a collective.

        Raises:
            ModelwrightError: the write before failed: disk full, no permission.
        """
        enter(Phase.SAVE)
        self._await_earlier()
        self._before()
        enter(Phase.SAVE)
        if not (self._writes or self._state.held.divided):
            return
        contents, score = self._taken(), self._score
        if not self._writes:
            return
        self._background.start(lambda: self._write(contents, score))

    def _taken(self) -> Contents:
        if self._state.held.divided:
            return take_gathered(self._state, self._group, self._weights)
        return self._snapshot.take(self._state, self._weights)

    def written(self) -> list[Path]:
        """Checkpoints that are on the disk now and were not told of yet.

        Raises:
            ModelwrightError: a write failed.
        """
        if not self._background.busy:
            self._background.wait()
            self._background.raise_failure()
        told, self._written = self._written, []
        return told

    def finish(self) -> list[Path]:
        """Wait until everything is on the disk, on every rank; what :meth:`written` returns.

        Raises:
            ModelwrightError: a write failed, or the newest checkpoint could not be copied to the store.
        """
        enter(Phase.SAVE)
        self._background.wait()
        told = self.written()
        if self._unstored is not None:
            raise self._unstored
        self._group.barrier()
        return told

    def leave(self) -> None:
        """Wait for what is under way, after another failure: a failure of the write is told by an event only."""
        self._background.wait()

    def _await_earlier(self) -> None:
        waited = self._background.wait()
        self._background.raise_failure()
        if waited >= TOLD_SECONDS:
            step = self._state.step
            emit(
                "save-waited",
                f"the save of step {step} waited {seconds_text(waited)} for the one before to be written",
                step=step,
                seconds=waited,
            )

    def _write(self, contents: Contents, score: Score | None) -> None:
        target = self._folder / contents.name
        try:
            self._permit()
            if not target.exists() or find_damage(target):
                write(contents, target, score, self._permit)
            self._permit()  # before others are dropped: writing may have taken long
            self._written.append(target)
            drop_others(target, self._saving.keep, self._saving.keep_best)
            self._permit()
        except BaseException as error:
            what = error.what if isinstance(error, ModelwrightError) else f"{type(error).__name__}: {error}"
            emit("save-failed", f"saving {contents.name} failed: {what}", level="error", step=contents.step)
            raise
        self._copy(target, contents.step)

    def _catch_up(self, store: CheckpointStore, step: int) -> None:
        """Copy what an earlier sitting wrote while the store was out of reach."""
        try:
            late = missing(store, self._folder, step)
        except ModelwrightError as error:
            self._unstored = error
            emit("store-unreachable", f"what it lacks is not known: {error.what}", level="warning", where=error.where)
            return
        for path in late:
            self._permit()
            self._copy(path, step_of(path.name))
            if self._unstored is None:
                message = f"{path.name} had missed the store, and is there now"
                emit("checkpoint-stored", message, step=step_of(path.name), store=store.where(path.name))

    def _copy(self, path: Path, step: int) -> None:
        """To the store, if any. It may be out of reach for a while: training goes on, the end tells."""
        if self._store is None:
            return
        try:
            self._store.upload(path)
            self._store.keep(path.name, self._saving.keep, self._saving.keep_best)
            self._unstored = None
        except ModelwrightError as error:
            self._unstored = error
            message = f"{path.name} is on the disk, and not in the store: {error.what}"
            emit("checkpoint-not-stored", message, level="warning", step=step, store=self._store.where(path.name))


def save(state: State, folder: Path, group: Group, keep: int, weights: Weights | None = None) -> Path:
    """Write ``folder/step-N`` and drop all but the newest ``keep``; rank 0 writes, the others wait.

    Where the weights to be scored are not those in training, ``weights`` has them written too.

    Raises:
        ModelwrightError: disk full, no permission.
    """
    target = folder / f"step-{state.step:08d}"
    gathered = take_gathered(state, group, weights) if state.held.divided else None
    if group.rank == 0:
        await_writing(folder)
        if not target.exists() or find_damage(target):
            write(gathered or Snapshot().take(state, weights), target)
            drop_others(target, keep)
    group.barrier()
    return target


def _checked_store(saving: Saving, folder: Path) -> CheckpointStore | None:
    if saving.to is None:
        return None
    store = open_store(saving.to, folder)
    store.check()
    claim(store, folder)
    return store
