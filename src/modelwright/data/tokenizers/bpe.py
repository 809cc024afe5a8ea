"""Byte-pair encoding over bytes, learnt from the training text (Sennrich et al. 2016; Radford et al. 2019).

Text is taken as bytes, never as characters, so any bytes come back as they were. Inside, each byte is
written as one character of GPT-2's byte alphabet; the saved ``tokenizer.json`` is therefore a plain file of
the ``tokenizers`` library, which gives the same tokens for UTF-8 text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import read_json, write_text
from modelwright.base.units import Count

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Engine
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
except ImportError as error:
    raise MissingExtra("text", "the bpe tokenizer") from error

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
_REMEMBERED = 500_000


def _byte_alphabet() -> NDArray[np.uint16]:
    """GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the others for 256, 257, ..."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return np.array([byte if byte in printable else next(others) for byte in range(256)], dtype=np.uint16)


_ALPHABET = _byte_alphabet()
BYTES = {chr(code): byte for byte, code in enumerate(_ALPHABET)}
_SPACE, _TAB, _LINE, _RETURN = (chr(_ALPHABET[ord(character)]) for character in " \t\n\r")
_LETTER = "A-Za-z_" + "".join(chr(code) for code in _ALPHABET[0x80:])
# Pieces that merges never cross, made for code: a name keeps the space, dot or bracket before it; the end of a
# line keeps the punctuation before it and the indentation after it. `re` and `tokenizers` read them alike.
_PIECES = (
    f"[{_SPACE}.(]?[{_LETTER}][{_LETTER}0-9]*"
    f"|{_SPACE}?[0-9]+"
    f"|{_SPACE}?[^{_LETTER}0-9{_SPACE}{_TAB}{_LINE}{_RETURN}]+(?:[{_RETURN}{_LINE}]+[{_SPACE}{_TAB}]*)*"
    f"|(?:[{_RETURN}{_LINE}]+[{_SPACE}{_TAB}]*)+"
    f"|[{_SPACE}{_TAB}]+(?={_SPACE})"
    f"|[{_SPACE}{_TAB}]+"
)
_SPLIT = re.compile(_PIECES)


class BpeTokenizer:
    """Byte-pair encoding; see :class:`Bpe`.

    Args:
        model: the learnt merges, over the byte alphabet.
    """

    def __init__(self, model: BPE) -> None:
        self._engine = Engine(model)
        tokens = self._engine.get_vocab()
        self._bytes = [b""] * len(tokens)
        for characters, token in tokens.items():
            self._bytes[token] = bytes(BYTES[character] for character in characters)
        self._known: dict[str, list[int]] = {}
        self.end_of_text = len(tokens)
        self.vocabulary = len(tokens) + 1

    def encode(self, text: bytes) -> NDArray[np.int64]:
        """Tokens of ``text``, int64 ``[tokens]``."""
        pieces = _SPLIT.findall(_characters(text))
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        self._learn(list(dict.fromkeys(piece for piece in pieces if piece not in self._known)))
        tokens: list[int] = []
        for piece in pieces:
            tokens.extend(self._known[piece])
        return np.array(tokens, dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of ``tokens``; the end of a text gives none."""
        return b"".join(self._bytes[token] for token in tokens if token != self.end_of_text)

    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes each token stands for, int64 ``[vocabulary]``."""
        return np.array([*map(len, self._bytes), 0], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``, which the ``tokenizers`` library reads too.

        To the library a text that spells ``<|endoftext|>`` ends there; to :meth:`encode` it is text.
        """
        write_text(folder / FILE, self._public().to_str())

    def _public(self) -> Engine:
        """The same tokens from the library alone, for text that is UTF-8."""
        public = Engine(self._engine.model)
        public.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), _split()]
        )
        public.decoder = decoders.ByteLevel()
        public.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
        return public

    def _learn(self, pieces: list[str]) -> None:
        with _one_thread():
            encodings = self._engine.encode_batch_fast(pieces)
        for piece, encoding in zip(pieces, encodings, strict=True):
            self._known[piece] = encoding.ids


@dataclass(frozen=True, kw_only=True)
class Bpe:
    """Byte-pair encoding over bytes, made for source code.

    Attributes:
        vocabulary: tokens to learn: 256 bytes, the end of a text, and merges. Fewer where the text has fewer.
    """

    vocabulary: Count = 2048

    library: ClassVar[str] = f"tokenizers {tokenizers.__version__}"

    def __post_init__(self) -> None:
        if self.vocabulary < 257:
            raise ModelwrightError(
                f"a vocabulary of {self.vocabulary} cannot hold the 256 bytes and the end of a text",
                where="vocabulary",
                remedy="choose 257 or more, such as 2048",
            )

    def train(self, texts: Iterable[bytes]) -> BpeTokenizer:
        """Learn merges from ``texts``."""
        engine = Engine(BPE())
        engine.pre_tokenizer = _split()
        trainer = BpeTrainer(
            vocab_size=self.vocabulary - 1,
            initial_alphabet=[chr(code) for code in _ALPHABET],
            special_tokens=[],
            show_progress=False,
        )
        with _one_thread():
            engine.train_from_iterator(map(_characters, texts), trainer)
        return BpeTokenizer(engine.model)

    def load(self, folder: Path) -> BpeTokenizer:
        """Read ``tokenizer.json``.

        Raises:
            ModelwrightError: it is missing or not a byte-level BPE.
        """
        path = folder / FILE
        model = read_json(path).get("model", {})
        try:
            return BpeTokenizer(Engine.from_str(json.dumps({"version": "1.0", "model": model})).model)
        except Exception as error:
            raise ModelwrightError(f"this is no byte-level BPE: {error}", where=str(path)) from error


def _characters(text: bytes) -> str:
    return _ALPHABET[np.frombuffer(text, dtype=np.uint8)].astype("<u2").tobytes().decode("utf-16-le")


def _split() -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(_PIECES), "isolated")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the library from starting threads: workers are forked from this process, threads would not be."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
