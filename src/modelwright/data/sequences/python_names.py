"""Names in the standard library as pairs: ``getlineno`` and the words it is made of, ``get line no``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from modelwright.data.sequences.pairs import Pairs
from modelwright.data.sequences.sources import Made, Row, Source
from modelwright.data.texts.python_stdlib import PythonStdlib

_NAME = re.compile(rb"\b_*([a-z]{2,}(?:_[a-z]{2,})+)\b")


@dataclass(frozen=True, kw_only=True)
class PythonNames(Pairs):
    """Finding words in names: the source is a name of several words written as one, the target its words.

    Names are those of the standard library's source, some ten thousand.

    Attributes:
        source_length: tokens in ``inputs``; a longer source loses its end.
        target_length: tokens in ``targets``; a longer target loses its end.
        tokenizer: what makes tokens; learnt from both sides of the training rows only.
        held_out: part of the names to judge by, in [0, 1). Each is decided by a hash.
        seed: chooses which names are held out.
    """

    source_length: int = 40
    target_length: int = 48

    kind: ClassVar[str] = "python-names"

    def sources(self) -> dict[str, Source]:
        """The names, in order."""
        names = sorted({name for _, text in PythonStdlib().texts() for name in _NAME.findall(text)})
        key = hashlib.sha256(b"\n".join(names)).hexdigest()
        return {"train": Made(key, partial(_rows, names))}


def _rows(names: list[bytes]) -> Iterator[Row]:
    """Of names that look the same without their borders the first stays."""
    known: set[str] = set()
    for name in names:
        words = name.decode().split("_")
        whole = "".join(words)
        if whole not in known:
            known.add(whole)
            yield Row(name.decode(), {"source": whole, "target": " ".join(words)})
