"""What sources of text share: documents become tokens once, and windows of tokens ever after."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash, read_json, write_json
from modelwright.base.units import bytes_text, count_text, seconds_text
from modelwright.data import TOKENIZERS, Splits, Tokenizer
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.texts.distinct import Distinct
from modelwright.data.texts.documents import Texts, held_out_names
from modelwright.data.texts.encoding import write_texts
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.windows import Packing, TokenWindows, check_packing
from modelwright.data.tokenizers.tokenizing import check_tokenizer, tokenizer_settings

FORMAT = 1  # raise it when the same text gives other files
_NAMES = "documents.json"
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Text(ABC):
    """Text in files, as windows of tokens.

    Attributes:
        context: tokens in one window.
        held_out: part of the files to judge by, in [0, 1). Each file is decided by a hash of its name.
        held_out_stride: tokens from one held-out window to the next; less than ``context`` gives each token
            more text before it, and takes longer. ``None``: ``context``.
        documents: ``joined``: windows run on from one document to the next, and tokens see the one before;
            ``separate``: tokens see their own document only, and positions begin anew in each.
        tokenizer: what makes tokens; learnt from the training files only.
        seed: chooses which files are held out.
    """

    context: int = 256
    held_out: float = 0.05
    held_out_stride: int | None = None
    documents: Packing = "joined"
    tokenizer: Annotated[object, TOKENIZERS] = field(default_factory=lambda: TOKENIZERS.resolve("bpe")())
    seed: int = 0

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer)
        check_packing(self.documents)
        if self.context < 1:
            raise ModelwrightError(f"a context of {self.context} tokens is none", where="context")
        if not 0 <= self.held_out < 1:
            raise ModelwrightError(
                f"held_out is {self.held_out}, a part of the files is at least 0 and below 1",
                where="held_out",
            )
        if self.held_out_stride is not None and not 1 <= self.held_out_stride <= self.context:
            raise ModelwrightError(
                f"a stride of {self.held_out_stride} leaves tokens out of windows of {self.context}",
                where="held_out_stride",
                remedy="choose 1 <= held_out_stride <= context",
            )

    @abstractmethod
    def texts(self) -> Texts:
        """The files, or rows, to take text from.

        Raises:
            ModelwrightError: there are none.
        """

    def prepare(self, cache: Path) -> Path:
        """Tokenise the files, unless that was done; returns the folder of the tokens.

        Raises:
            ModelwrightError: no text, a file cannot be read, or the disk is full.
        """
        documents = Distinct(self.texts())
        documents.tell_skipped()
        _tell_single(documents, self.held_out)
        settings = {"format": FORMAT, "tokenizer": tokenizer_settings(self.tokenizer)}
        settings |= {"held_out": self.held_out, "seed": self.seed, "documents": _hashes(documents)}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return build_once(cache / f"text-{key[:16]}", partial(self._build, documents))

    def open(self, folder: Path) -> Splits:
        """Open the tokens that :meth:`prepare` wrote.

        Raises:
            ModelwrightError: a file is missing or damaged, or the context is longer than the text.
        """
        read_manifest(folder)
        tokenizer = self._technique.load(folder)
        names = read_json(folder / _NAMES)["held_out"]
        held_out, documents = None, None
        if names:
            indexed = Indexed(folder / "held_out")
            stride = self.held_out_stride or self.context
            held_out = TokenWindows(indexed, self.context, stride, tokenizer.token_bytes(), self.documents)
            documents = _Decoded(names, indexed, tokenizer)
        train = TokenWindows(Indexed(folder / "train"), self.context, documents=self.documents)
        return Splits(train, held_out, {"vocabulary": tokenizer.vocabulary}, tokenizer, documents)

    @property
    def _technique(self) -> Any:
        return self.tokenizer

    def _build(self, documents: Distinct, folder: Path) -> None:
        started = time.perf_counter()
        held_out = held_out_names(documents.names, self.held_out, self.seed)
        names = {
            "train": [name for name in documents.names if name not in held_out],
            "held_out": [name for name in documents.names if name in held_out],
        }
        tokenizer: Tokenizer = self._technique.train(text for _, text in documents.read(names["train"]))
        tokenizer.save(folder)
        counts = {split: _write(folder / split, documents, names[split], tokenizer) for split in names}
        write_json(folder / _NAMES, names)
        write_manifest(folder, _facts(folder, counts, tokenizer))
        _report(counts, documents, tokenizer.vocabulary, time.perf_counter() - started)


class _Decoded:
    """Held-out documents, back from their tokens: the files themselves may have changed since."""

    def __init__(self, names: list[str], indexed: Indexed, tokenizer: Tokenizer) -> None:
        self._names, self._indexed, self._tokenizer = names, indexed, tokenizer

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for number, name in enumerate(self._names):
            yield name, self._tokenizer.decode(self._indexed.document(number).tolist())


def _hashes(documents: Distinct) -> dict[str, str]:
    return {name: document.sha256 for name, document in documents.documents.items()}


def _tell_single(documents: Distinct, held_out: float) -> None:
    if len(documents.documents) == 1 and held_out > 0:
        unit = documents.unit.removesuffix("s")
        events.emit("nothing-held-out", f"a single {unit} cannot be split by {unit}", level="warning")


def _write(prefix: Path, documents: Distinct, names: list[str], tokenizer: Tokenizer) -> tuple[int, int]:
    return write_texts(prefix, (text for _, text in documents.read(names)), tokenizer)


def _facts(folder: Path, counts: Mapping[str, tuple[int, int]], tokenizer: Tokenizer) -> dict[str, Any]:
    saved = folder / _TOKENIZER
    return {
        "tokenizer": file_hash(saved) if saved.is_file() else None,
        "vocabulary": tokenizer.vocabulary,
        "documents": {split: documents for split, (documents, _) in counts.items()},
        "tokens": {split: tokens for split, (_, tokens) in counts.items()},
    }


def _report(counts: Mapping[str, tuple[int, int]], text: Distinct, vocabulary: int, seconds: float) -> None:
    tokens = sum(tokens for _, tokens in counts.values())
    events.emit(
        "data-prepared",
        f"{len(text.documents)} {text.unit}, {bytes_text(text.text_bytes)}, became {count_text(tokens)} tokens"
        f" in {seconds_text(seconds)}",
        documents={split: documents for split, (documents, _) in counts.items()},
        tokens={split: tokens for split, (_, tokens) in counts.items()},
        bytes=text.text_bytes,
        vocabulary=vocabulary,
        seconds=seconds,
    )
