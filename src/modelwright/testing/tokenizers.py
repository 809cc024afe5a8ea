"""The contract of tokenizers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import numpy as np

from modelwright.base.choice import Family
from modelwright.data import TOKENIZERS, Tokenizer, TokenizerTechnique
from modelwright.testing.contract import Contract

TEXTS = (
    b"def first(values):\n    for value in values:\n        return value\n\n\n" * 20,
    b"class Reader:\r\n\tdef read(self, size=-1):\r\n\t\treturn self.source.read(size)\r\n" * 20,
    "naïve café, 東京, emoji 🎈 and 123456789\n".encode() * 10,
)
_RANDOM = random.Random(0)
_HARD = (
    b"",
    b" ",
    b"   \n\n\t  \r\n   x",
    bytes(range(256)),
    b"\xff\xfe\x80 broken utf-8 \xc3\x28",
    b"<|endoftext|>",
    b"a" * 3000,
    *(_RANDOM.randbytes(length) for length in (1, 7, 1000)),
    *TEXTS,
)


class TokenizerContract(Contract):
    """Bytes become tokens and come back, and nothing is lost on the way."""

    family: ClassVar[Family] = TOKENIZERS

    def test_any_bytes_come_back(self, technique: TokenizerTechnique, tmp_path: Path) -> None:
        """Any bytes come back as they were."""
        tokenizer = technique.train(TEXTS)
        for text in _HARD:
            tokens = tokenizer.encode(text)
            assert tokens.dtype == np.int64 and tokens.ndim == 1, f"tokens are {tokens.dtype} {tokens.shape}"
            assert tokenizer.decode(tokens.tolist()) == text, f"{text[:40]!r} did not come back"

    def test_bytes_add_up(self, technique: TokenizerTechnique, tmp_path: Path) -> None:
        """The bytes of the tokens of a text are the bytes of the text."""
        tokenizer = technique.train(TEXTS)
        sizes = tokenizer.token_bytes()
        assert sizes.dtype == np.int64 and sizes.shape == (tokenizer.vocabulary,), f"{sizes.dtype} {sizes.shape}"
        for text in _HARD:
            assert sizes[tokenizer.encode(text)].sum() == len(text), f"bytes of {text[:40]!r} do not add up"

    def test_end_of_text_stands_apart(self, technique: TokenizerTechnique, tmp_path: Path) -> None:
        """The end of a text is a token of its own, without bytes, and no text encodes to it."""
        tokenizer = technique.train(TEXTS)
        assert 0 <= tokenizer.end_of_text < tokenizer.vocabulary, "the end of a text is not in the vocabulary"
        assert tokenizer.token_bytes()[tokenizer.end_of_text] == 0, "the end of a text stands for bytes"
        assert tokenizer.decode([tokenizer.end_of_text]) == b"", "the end of a text decodes to bytes"
        for text in _HARD:
            tokens = tokenizer.encode(text)
            assert tokenizer.end_of_text not in tokens, f"{text[:40]!r} encodes to the end of a text"
            assert not len(tokens) or 0 <= tokens.min() <= tokens.max() < tokenizer.vocabulary, "unknown token"

    def test_saved_is_the_same(self, technique: TokenizerTechnique, tmp_path: Path) -> None:
        """A saved tokenizer is the same one."""
        tokenizer = technique.train(TEXTS)
        tokenizer.save(tmp_path)
        _same(tokenizer, technique.load(tmp_path))

    def test_training_again_gives_the_same(self, technique: TokenizerTechnique, tmp_path: Path) -> None:
        """Equal texts give equal tokenizers."""
        _same(technique.train(TEXTS), technique.train(list(TEXTS)))


def _same(first: Tokenizer, second: Tokenizer) -> None:
    assert (first.vocabulary, first.end_of_text) == (second.vocabulary, second.end_of_text), "sizes differ"
    for text in _HARD:
        assert first.encode(text).tolist() == second.encode(text).tolist(), f"tokens of {text[:40]!r} differ"
