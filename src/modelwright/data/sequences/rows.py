"""What sources of tokenised rows share: rows become tokens once, and padded batches ever after."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.units import count_text
from modelwright.data import TOKENIZERS, Dataset, Encoder, Splits, Tokenizer
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.sequences.ragged import Ragged, write_ragged
from modelwright.data.sequences.sources import Parts, Row, Source
from modelwright.data.tokenizers.tokenizing import check_tokenizer, tokenizer_settings, utf8

FORMAT = 1  # raise it when the same rows give other files
_SHOWN = 10
_USE = {"train": "to learn from", "held_out": "to judge by"}
_TOLD = {
    "cut": "were longer than the data's setting and lost their end",
    "dropped": "lost all that was to be learnt when they were cut, and were left out",
    "alike": "have the same chosen and rejected answer, and were left out",
    "empty": "hold nothing to learn, and were left out",
    "shared": "are to be judged by, and ask what rows to learn from ask",
    "spelt": "spell a special token in their text, which is read as that token",
}

Columns = Mapping[str, NDArray[Any]]


class Tally:
    """What happened to rows on their way, to be told: kinds of :data:`_TOLD`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}

    def note(self, kind: str, row: Row) -> None:
        """``kind`` happened to ``row``."""
        self._counts[kind] += 1
        places = self._places.setdefault(kind, [])
        if len(places) < _SHOWN:
            places.append(row.where)

    def leave_out(self, kind: str, row: Row) -> Columns | None:
        """Note it, and give ``None`` for the row."""
        self.note(kind, row)
        return None

    def facts(self) -> dict[str, Any]:
        """Counts and the first places, for a manifest."""
        return {kind: {"rows": count, "places": self._places[kind]} for kind, count in sorted(self._counts.items())}


Encode = Callable[[Row, Tally], Columns | None]


@dataclass(frozen=True)
class Coding:
    """How rows become numbers.

    Attributes:
        columns: names of what ``encode`` gives.
        encode: a row to its columns, int ``[numbers]`` each; ``None`` leaves the row out, which it notes.
        facts: numbers of the data beside its vocabulary.
        notes: JSON for the manifest that ``dataset`` needs, such as the names of classes.
    """

    columns: tuple[str, ...]
    encode: Encode
    facts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TokenRows(ABC):
    """Rows of text as padded tokens.

    Attributes:
        tokenizer: what makes tokens; learnt from the training rows only.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its question, so rows
            with the same question stay together.
        seed: chooses which rows are held out.
    """

    tokenizer: Annotated[object, TOKENIZERS] = field(default_factory=lambda: TOKENIZERS.resolve("bpe")())
    held_out: float = 0.1
    seed: int = 0

    kind: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    places: ClassVar[frozenset[str]] = frozenset({"tokenizer", "files", "held_out_files", "folder", "root"})
    """Fields that say where the content lies; the content itself is in the key."""

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer)
        check_part(self.held_out)

    @abstractmethod
    def sources(self) -> dict[str, Source]:
        """Where rows come from: ``train``, and ``held_out`` where that is given."""

    @abstractmethod
    def identity(self, row: Row) -> object:
        """What a row asks, without the answer, in JSON."""

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """What a tokenizer learns from a row."""

    @abstractmethod
    def coding(self, tokenizer: Tokenizer, parts: Parts) -> Coding:
        """How rows become numbers."""

    @abstractmethod
    def dataset(self, rows: Ragged, tokenizer: Tokenizer) -> Dataset:
        """Batches of what was coded."""

    def encoder(self, tokenizer: Tokenizer, classes: tuple[str, ...]) -> Encoder | None:
        """What makes new rows inputs of the model, where that is known."""
        return None

    def extra_settings(self) -> dict[str, Any]:
        """What else decides the numbers, beside the fields."""
        return {}

    def prepare(self, cache: Path) -> Path:
        """Tokenise the rows, unless that was done; returns their folder.

        Raises:
            ModelwrightError: no rows, a row cannot be read, or the disk is full.
        """
        sources = self.sources()
        settings = {"format": FORMAT, "tokenizer": tokenizer_settings(self.tokenizer), **self.extra_settings()}
        settings |= {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in self.places}
        settings |= {"sources": {part: source.key for part, source in sources.items()}}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        folder = build_once(cache / f"{self.kind}-{key[:16]}", partial(self._build, sources))
        _tell(read_manifest(folder))
        return folder

    def open(self, folder: Path) -> Splits:
        """Open the rows that :meth:`prepare` wrote.

        Raises:
            ModelwrightError: a file is missing or damaged.
        """
        manifest = read_manifest(folder)
        technique: Any = self.tokenizer
        tokenizer: Tokenizer = technique.load(folder)
        parts = {part: self.dataset(Ragged(folder, part, self.columns), tokenizer) for part in manifest["rows"]}
        names = tuple(manifest.get("classes", ()))
        return Splits(
            parts["train"],
            parts.get("held_out"),
            manifest["facts"],
            tokenizer,
            encoder=self.encoder(tokenizer, names),
            classes=names,
        )

    def _build(self, sources: Mapping[str, Source], folder: Path) -> None:
        started = time.perf_counter()
        parts = Parts(sources, self.held_out, self.seed, self.identity)
        technique: Any = self.tokenizer
        tokenizer: Tokenizer = technique.train(self._training_texts(parts))
        tokenizer.save(folder)
        coding, tally = self.coding(tokenizer, parts), Tally()
        counts = {part: self._write(folder, part, parts, coding, tally) for part in parts.names}
        facts = {"vocabulary": tokenizer.vocabulary, **coding.facts}
        write_manifest(folder, {"facts": facts, "rows": counts, "told": tally.facts(), **coding.notes})
        _report(self.kind, counts, time.perf_counter() - started)

    def _training_texts(self, parts: Parts) -> Iterator[bytes]:
        for row in parts.rows("train"):
            for text in self.texts(row):
                yield utf8(text)

    def _noted(self, part: str, parts: Parts, tally: Tally) -> Iterator[Row]:
        for row in parts.rows(part):
            if part == "held_out" and parts.learnt(row):
                tally.note("shared", row)
            yield row

    def _write(self, folder: Path, part: str, parts: Parts, coding: Coding, tally: Tally) -> int:
        coded = (coding.encode(row, tally) for row in self._noted(part, parts, tally))
        count = write_ragged(folder, part, self.columns, (columns for columns in coded if columns is not None))
        if count == 0:
            raise ModelwrightError(
                f"no row is left {'to learn from' if part == 'train' else 'to judge by'}",
                where=part,
                remedy="give more rows, or longer samples",
            )
        return count


def check_part(held_out: float) -> None:
    """Refuse what is no part of the samples.

    Raises:
        ModelwrightError: it is below 0, or 1 or more.
    """
    if not 0 <= held_out < 1:
        raise ModelwrightError(
            f"held_out is {held_out}; a part of the samples is at least 0 and below 1",
            where="held_out",
            remedy="held_out: 0.1",
        )


def check_length(name: str, length: int | None, least: int = 1) -> None:
    """Refuse a length in tokens that leaves nothing.

    Raises:
        ModelwrightError: it is below ``least``.
    """
    if length is not None and length < least:
        raise ModelwrightError(
            f"{name} is {length} tokens, which leaves nothing", where=name, remedy=f"{name}: {least}"
        )


def _tell(manifest: Mapping[str, Any]) -> None:
    total = sum(manifest["rows"].values())
    for kind, noted in manifest["told"].items():
        events.emit(
            f"rows-{kind}",
            f"{count_text(noted['rows'])} rows {_TOLD[kind]} ({count_text(total)} rows are kept),"
            f" such as {noted['places'][0]}",
            level="warning",
            rows=noted["rows"],
            places=noted["places"],
        )


def _report(kind: str, counts: Mapping[str, int], seconds: float) -> None:
    shown = " and ".join(f"{count_text(count)} rows {_USE[part]}" for part, count in counts.items())
    events.emit("data-prepared", f"{kind}: {shown}, in {seconds:.3g} s", rows=dict(counts), seconds=seconds)
