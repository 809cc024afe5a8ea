"""Mixtures: several sources in shares that hold at every place, and may change over the run."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import read_json, write_json
from modelwright.base.units import Count
from modelwright.data import DATA, Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import NAME as MANIFEST
from modelwright.data.manifest import check, write_manifest
from modelwright.data.mixture.agreement import merged
from modelwright.data.mixture.schedule import Schedule
from modelwright.data.mixture.shared import Shared, shared
from modelwright.data.mixture.sources import check_techniques, check_tokenizers, takes_tokenizer

FORMAT = 1
_FILE = "mixture.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of a mixture.

    Attributes:
        data: where its samples come from.
        weight: its share of the samples, beside the other weights, until a phase says otherwise; 0 for none.
    """

    data: Annotated[object, DATA]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ModelwrightError(f"a weight of {self.weight} is no share", where="weight", remedy="give 0 or more")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Other weights, from a position on.

    Attributes:
        at: samples of the whole run before it begins.
        weights: of every source by name; 0 for none.
    """

    at: Count
    weights: dict[str, float]

    def __post_init__(self) -> None:
        if self.at < 1:
            raise ModelwrightError(
                f"a phase begins at {self.at}", where="at", remedy="the weights of the sources hold from 0 on"
            )


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources as one. Any n samples in a row of one phase hold each source n x share times, within less than 4.

    The order within a source follows from the seed and the source's name: weights, phases and other sources do not
    disturb it, and each source has epochs of its own. An epoch of the mixture is as many samples as all sources have
    together. Held-out samples are those of all sources, one source after the other.

    Attributes:
        sources: by name.
        phases: other weights from given positions on, in order.
        tokenizer_from: the source that learns the tokenizer, on its own text; the others take it.
    """

    sources: dict[str, Source]
    phases: tuple[Phase, ...] = ()
    tokenizer_from: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ModelwrightError("a mixture needs sources", where="sources", remedy="NAME: {data: ..., weight: 1}")
        _check_phases(self.phases, self.sources)
        self.schedule()
        techniques = {name: source.data for name, source in self.sources.items()}
        check_techniques(techniques)
        check_tokenizers(techniques, self.tokenizer_from)

    @property
    def tokenizer(self) -> Any:
        """The technique that reads the tokenizer of all sources; ``None`` where they have none."""
        if self.tokenizer_from is not None:
            return getattr(self.sources[self.tokenizer_from].data, "tokenizer", None)
        return self._first("tokenizer")

    @property
    def context(self) -> int | None:
        """Tokens in a sample, where sources have a context."""
        context: int | None = self._first("context")
        return context

    def schedule(self) -> Schedule:
        """Which source is at each position."""
        first = {name: source.weight for name, source in self.sources.items()}
        return Schedule({0: first, **{phase.at: phase.weights for phase in self.phases}})

    def prepare(self, cache: Path) -> Path:
        """Prepare every source under ``cache`` and note where each lies; returns the folder of that note.

        Raises:
            ModelwrightError: a source cannot be prepared, or what was prepared of it is damaged.
        """
        _tell_undrawn(self)
        folders: dict[str, Path] = {}
        given: Shared | None = None
        for name in self._in_turn():
            technique = self._technique(name, given)
            with _placed(name, technique):
                folders[name] = technique.prepare(cache)
                _check_files(folders[name])
                if name == self.tokenizer_from:
                    given = self._given(technique.open(folders[name]))
        noted = {name: os.path.relpath(folders[name], cache) for name in self.sources}
        key = hashlib.sha256(json.dumps([FORMAT, noted], sort_keys=True).encode()).hexdigest()
        return build_once(cache / f"mixture-{key[:16]}", partial(_note, noted))

    def open(self, folder: Path) -> Splits:
        """Open the sources where :meth:`prepare` noted them.

        Raises:
            ModelwrightError: a source's folder is gone, or sources do not fit together.
        """
        folders = self._noted(folder)
        parts: dict[str, Splits] = {}
        given: Shared | None = None
        for name in self._in_turn():
            technique = self._technique(name, given)
            with _placed(name, technique):
                parts[name] = technique.open(folders[name])
                if name == self.tokenizer_from:
                    given = self._given(parts[name])
        return merged({name: parts[name] for name in self.sources}, self.schedule())

    def _first(self, name: str) -> Any:
        found = (getattr(source.data, name, None) for source in self.sources.values())
        return next((each for each in found if each is not None), None)

    def _in_turn(self) -> list[str]:
        """The sources; first the one that has the tokenizer."""
        return sorted(self.sources, key=lambda name: name != self.tokenizer_from)

    def _technique(self, name: str, given: Shared | None) -> Any:
        """The configuration of a source, with the tokenizer it is to take."""
        technique: Any = self.sources[name].data
        return replace(technique, tokenizer=given) if given is not None and takes_tokenizer(technique) else technique

    def _given(self, splits: Splits) -> Shared:
        if splits.tokenizer is None:
            raise ModelwrightError("the source has no tokenizer to give", remedy="tokenizer_from: another source")
        return shared(splits.tokenizer, self.tokenizer)

    def _noted(self, folder: Path) -> dict[str, Path]:
        path = folder / _FILE
        noted = read_json(path)
        if noted.get("format", 0) > FORMAT:
            raise ModelwrightError(
                "this mixture was prepared by a newer modelwright",
                where=str(path),
                remedy="upgrade: pip install -U modelwright",
            )
        if noted["sources"].keys() != self.sources.keys():
            raise ModelwrightError(
                f"the mixture was prepared of {', '.join(noted['sources'])}, not of {', '.join(self.sources)}",
                where=str(path),
                remedy="prepare it again: start a new run, or branch from this one",
            )
        folders = {name: Path(os.path.normpath(folder.parent / place)) for name, place in noted["sources"].items()}
        for name, found in folders.items():
            if not found.exists():
                raise ModelwrightError(
                    f"the prepared data of the source '{name}' is gone",
                    where=str(found),
                    remedy=f"remove the folder {folder} too; both are made again when they are needed",
                )
        return folders


def _check_phases(phases: tuple[Phase, ...], sources: Mapping[str, Source]) -> None:
    starts = [phase.at for phase in phases]
    if starts != sorted(set(starts)):
        raise ModelwrightError(
            f"phases begin at {', '.join(map(str, starts))}", where="phases", remedy="name them in order, each once"
        )
    for phase in phases:
        if differing := sorted(phase.weights.keys() ^ sources.keys()):
            known = differing[0] in sources
            raise ModelwrightError(
                f"the phase at {phase.at} {'gives no weight to' if known else 'names'} '{differing[0]}'"
                + ("" if known else ", which is no source"),
                where="phases",
                remedy="each phase names every source; 0 stands for none",
            )


def _tell_undrawn(mixture: Mixture) -> None:
    for name, source in mixture.sources.items():
        if source.weight == 0 and all(phase.weights[name] == 0 for phase in mixture.phases):
            emit("source-not-drawn", f"the source '{name}' has the weight 0: nothing is learnt from it", source=name)


def _check_files(folder: Path) -> None:
    """Compare the hashes of a source's files, as is done of data that stands alone."""
    if (folder / MANIFEST).is_file() and "files" in read_json(folder / MANIFEST):
        check(folder)


def _note(noted: Mapping[str, str], folder: Path) -> None:
    write_json(folder / _FILE, {"format": FORMAT, "sources": dict(noted)})
    write_manifest(folder, {})


@contextmanager
def _placed(name: str, technique: Any) -> Iterator[None]:
    """Say of which source an error speaks, where it names a field or nothing."""
    own = {entry.name for entry in fields(technique)}
    try:
        yield
    except ModelwrightError as error:
        if error.where in own or not error.where:
            error.where = f"data.sources.{name}.data.{error.where}".rstrip(".")
        raise
