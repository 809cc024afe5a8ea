"""Sources that are quickly made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modelwright.data.mixture.mixture import Mixture, Source
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.bpe import Bpe

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

WORDS = {
    "sea": ["red", "green", "blue", "deep", "sea", "sky", "stone", "wind"],
    "city": ["tram", "bridge", "north", "market", "late", "river", "seven"],
}


class Lengths:
    """A data set that is only a length: sample ``i`` is the number ``base + i``."""

    alike = True

    def __init__(self, length: int, base: int = 0) -> None:
        self.length, self.base = length, base
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, positions: Positions) -> Batch:
        self.reads.append(len(positions))
        return {"inputs": torch.from_numpy(np.asarray(positions, dtype=np.int64) + self.base)}


def written(folder: Path, name: str, files: int = 12, words: int = 300) -> Path:
    """A folder of text files made of the words of ``name``."""
    random = np.random.default_rng(len(name))
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(files):
        text = " ".join(random.choice(WORDS[name], words))
        (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder / name


def texts(folder: Path, name: str, **fields: Any) -> TextFiles:
    """Text as a source; by default it learns a tokenizer of its own."""
    settings: dict[str, Any] = {"context": 16, "held_out": 0.2, "tokenizer": Bpe(vocabulary=300)}
    return TextFiles(files=("*.txt",), root=str(written(folder, name)), **(settings | fields))


def mixture(folder: Path) -> Mixture:
    """Two texts, 7 to 3, with the tokenizer of the first."""
    sea, city = texts(folder, "sea", held_out_stride=5), texts(folder, "city", held_out_stride=5)
    sources = {"sea": Source(data=sea, weight=7), "city": Source(data=city, weight=3)}
    return Mixture(sources=sources, tokenizer_from="sea")
