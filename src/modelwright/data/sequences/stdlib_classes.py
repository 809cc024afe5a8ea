"""Which package of the standard library a piece of source comes from: real text with classes, on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.data.sequences.sources import Made, Row, Source
from modelwright.data.sequences.text_classes import LabelledText
from modelwright.data.texts.documents import held_out_names
from modelwright.data.texts.python_stdlib import PythonStdlib

_LEAST_FILES = 5
_LEFT_OUT = frozenset({"encodings"})  # tables that programs wrote


@dataclass(frozen=True, kw_only=True)
class PythonStdlibClasses(LabelledText):
    """Pieces of the standard library's source; the class is the package. Files are held out whole.

    Attributes:
        classes: how many packages, the largest first; those of few files are left out.
        piece: bytes in a piece, about: pieces end with a line.
        pieces: of each package at most, evenly spread over its source.
        length: tokens in a sample; a longer text loses its end, a shorter one is filled with 0. ``None``: as many
            as the longest text of each batch.
        tokenizer: what makes tokens; learnt from the training texts only.
        held_out: part of each package's files to judge by, in [0, 1). Each is decided by a hash of its name.
        seed: chooses which files are held out.
    """

    classes: int = 8
    piece: int = 600
    pieces: int = 400

    kind: ClassVar[str] = "python-stdlib-classes"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("classes", 2), ("piece", 20), ("pieces", 1)):
            if getattr(self, name) < least:
                raise ModelwrightError(
                    f"{name} is {getattr(self, name)}", where=name, remedy=f"{name}: {least} or more"
                )

    def sources(self) -> dict[str, Source]:
        """The pieces.

        Raises:
            ModelwrightError: the library has not so many packages.
        """
        packages = _packages()
        largest = sorted(packages, key=lambda name: (-sum(len(text) for _, text in packages[name]), name))
        if len(largest) < self.classes:
            raise ModelwrightError(
                f"the standard library has {len(largest)} packages of {_LEAST_FILES} files or more",
                where="classes",
                remedy=f"classes: {len(largest)}",
            )
        chosen = {name: packages[name] for name in sorted(largest[: self.classes])}
        told = [[name, hashlib.sha256(text).hexdigest()] for files in chosen.values() for name, text in files]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        held = {name for files in chosen.values() for name in self._held(files)}
        parts = {"train": False, "held_out": True} if held else {"train": False}
        return {part: Made(key, partial(self._rows, chosen, held, within)) for part, within in parts.items()}

    def _held(self, files: list[tuple[str, bytes]]) -> frozenset[str]:
        return held_out_names([name for name, _ in files], self.held_out, self.seed)

    def _rows(self, packages: dict[str, list[tuple[str, bytes]]], held: set[str], within: bool) -> Iterator[Row]:
        """Pieces of the files that are held out, or of those that are not."""
        for package, files in packages.items():
            pieces = [(name, piece) for name, text in files for piece in _pieces(text, self.piece)]
            for place in np.linspace(0, len(pieces) - 1, min(self.pieces, len(pieces))).astype(int):
                name, piece = pieces[place]
                if (name in held) == within:
                    yield Row(name, {"text": piece.decode("utf-8", "surrogateescape"), "label": package})


def _packages() -> dict[str, list[tuple[str, bytes]]]:
    """Packages that have some files with text in them."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for name, text in PythonStdlib().texts():
        package, slash, _ = name.partition("/")
        if slash and text.strip() and package not in _LEFT_OUT:
            found.setdefault(package, []).append((name, text))
    return {package: files for package, files in found.items() if len(files) >= _LEAST_FILES}


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Whole lines, together at least ``size`` bytes; what is left at the end is dropped unless it is all."""
    piece, first = b"", True
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= size:
            yield piece
            piece, first = b"", False
    if first:
        yield piece
