"""The contracts, over everything that is listed: a new entry cannot escape."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import labelled, tabular
from tests.data.mixture.examples import mixture
from tests.data.shards.example import token_shards

from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.data.npy import NpyArrays
from modelwright.data.texts.python_stdlib import PythonStdlib
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.byte import Byte
from modelwright.testing.data import DataContract
from modelwright.testing.tokenizers import TokenizerContract

SOURCES = Path(tempfile.mkdtemp(prefix="sources-"))


@pytest.fixture(scope="module", autouse=True)
def sources() -> Iterator[None]:
    yield
    shutil.rmtree(SOURCES)


def _text_files() -> TextFiles:
    random = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "deep", "sea", "sky", "stone", "wind"])
    for number in range(12):
        text = " ".join(random.choice(words, 300))
        (SOURCES / f"{number}.txt").write_text(text, encoding="utf-8")
    return TextFiles(files=("*.txt",), root=str(SOURCES), context=16, held_out=0.2, held_out_stride=5)


def _npy() -> NpyArrays:
    random = np.random.default_rng(0)
    np.save(SOURCES / "inputs.npy", random.normal(size=(50, 3, 2)).astype(np.float32))
    np.save(SOURCES / "targets.npy", random.integers(0, 4, 50))
    return NpyArrays(inputs=str(SOURCES / "inputs.npy"), targets=str(SOURCES / "targets.npy"))


EXAMPLES: dict[str, Callable[[], Any]] = {
    "python-stdlib": lambda: PythonStdlib(tokenizer=Byte(), context=128),
    "text-files": _text_files,
    "npy": _npy,
    "mixture": partial(mixture, SOURCES),
    "token-shards": partial(token_shards, SOURCES),
}


EXAMPLES |= {name: partial(make, SOURCES) for name, make in (labelled.EXAMPLES | tabular.EXAMPLES).items()}


class TestData(DataContract):
    @classmethod
    def default(cls, name: str) -> Any:
        """What needs settings is made by an example; whatever else is listed is made without."""
        return EXAMPLES[name]() if name in EXAMPLES else super().default(name)


class TestTokenizers(TokenizerContract):
    @classmethod
    def default(cls, name: str) -> Any:
        """A local one is read from a folder."""
        return labelled.local_tokenizer(SOURCES) if name == "local" else super().default(name)


@dataclass(frozen=True, kw_only=True)
class Leaky:
    """Judges by what it learnt from."""

    def prepare(self, cache: Path) -> Path:
        cache.mkdir(parents=True, exist_ok=True)
        return cache

    def open(self, folder: Path) -> Splits:
        samples = InMemory({"inputs": torch.arange(10.0)[:, None]})
        return Splits(samples, samples, {"features": 1})


class Lossy(Byte):
    """Forgets capital letters."""

    def train(self, texts: Any) -> Any:
        tokenizer = super().train(texts)
        encode = tokenizer.encode
        tokenizer.encode = lambda text: encode(text.lower())  # type: ignore[method-assign]
        return tokenizer


def test_leak_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="100% of the held-out samples"):
        DataContract().test_held_out_is_not_learnt_from(Leaky(), tmp_path)


def test_lossy_tokenizer_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not come back"):
        TokenizerContract().test_any_bytes_come_back(Lossy(), tmp_path)
