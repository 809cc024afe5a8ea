"""Shards of a few small texts, and ways to damage them; without torch, as the processes of some tests import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modelwright.data.shards.building import Build
from modelwright.data.shards.manifest import Manifest
from modelwright.data.texts.documents import Files
from modelwright.data.tokenizers.byte import Byte

WORDS = np.array(["red", "green", "blue", "deep", "sea", "sky", "stone", "wind", "é"])
HELD_OUT = 0.2


def write_texts(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """Texts of different lengths, an empty one and a copy among them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        text = " ".join(random.choice(WORDS, int(random.integers(5, 120))))
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    (folder / "copy.txt").write_bytes((folder / "000.txt").read_bytes())
    (folder / "empty.txt").write_bytes(b"")
    return folder


def build_of(texts: Path, folder: Path, **fields: Any) -> Build:
    """How shards of about 2,000 bytes of text are built."""
    files = Files([(path.name, path) for path in texts.glob("*.txt")])
    settings: dict[str, Any] = {"technique": Byte(), "held_out": HELD_OUT, "seed": 0, "shard_bytes": 1000, "workers": 1}
    return Build(texts=files, folder=folder, **(settings | fields))


def build(texts: Path, folder: Path, **fields: Any) -> Manifest:
    """The shards of :func:`build_of`."""
    return build_of(texts, folder, **fields).run()


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def alter(path: Path) -> None:
    """Change one byte, so that the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
