"""A tokenizer that lies in a folder: ``tokenizer.json``, as ``transformers`` and ``tokenizers`` write it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import file_hash, read_json, speaking
from modelwright.data.tokenizers.bpe import BYTES

try:
    import tokenizers
    from tokenizers import Tokenizer as Engine
except ImportError as error:
    raise MissingExtra("text", "the local tokenizer") from error

FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_KEPT = (FILE, _CONFIG, _TEMPLATE)
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
_INVALID = re.compile("([\udc80-\udcff])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHARACTER = {byte: character for character, byte in BYTES.items()}


class LocalTokenizer:
    """A tokenizer read from a folder; see :class:`Local`.

    Attributes:
        special: names of the special tokens, such as ``bos_token``, to what they are spelt as.
        template: the chat template that came with it, or ``None``.

    Args:
        folder: holds ``tokenizer.json``; ``tokenizer_config.json`` and ``chat_template.jinja`` if there.
        end_of_text: how the token between documents is spelt; ``None`` takes what the folder says.
    """

    def __init__(self, folder: Path, end_of_text: str | None = None) -> None:
        self._folder = folder
        self._engine = _engine(folder / FILE)
        self._added = self._engine.get_added_tokens_decoder()
        vocabulary: dict[str, int] = self._engine.get_vocab(with_added_tokens=True)
        self._token_of = vocabulary
        self._spelt = {token: text for text, token in vocabulary.items()}
        self.vocabulary = max(vocabulary.values()) + 1
        config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
        self.special = {name: _spelling(config[name]) for name in sorted(config) if name.endswith("_token")}
        self.special = {name: text for name, text in self.special.items() if text in vocabulary}
        self.template = _template(folder, config)
        self.end_of_text = self._end(end_of_text or self.special.get("eos_token"))
        self.special.setdefault("eos_token", self._spelt[self.end_of_text])
        self._byte_level = "ByteLevel" in _kinds(read_json(folder / FILE).get("decoder"))

    @property
    def pad(self) -> int | None:
        """The padding token, where the folder names one."""
        return self._token_of.get(self.special.get("pad_token", ""))

    def encode(self, text: bytes) -> NDArray[np.int64]:
        """Tokens of ``text``, int64 ``[tokens]``; what spells a special token is text like any other.

        Raises:
            ModelwrightError: bytes that are not UTF-8, and the vocabulary does not hold every byte.
        """
        self._engine.encode_special_tokens = True
        tokens: list[int] = []
        for piece in _INVALID.split(text.decode("utf-8", "surrogateescape")):
            tokens.extend(self._byte(piece) if _INVALID.match(piece) else self._ids(piece))
        return np.array(tokens, dtype=np.int64)

    def encode_marked(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of a rendered chat, in which special tokens are read as such.

        Returns:
            Tokens, int64 ``[tokens]``, and the places of their first and past their last character, int64
            ``[tokens, 2]``.
        """
        self._engine.encode_special_tokens = False
        encoding = self._engine.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
        places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int64), places

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of ``tokens``; special ones give none."""
        numbers = [int(token) for token in tokens]
        if self._byte_level:
            return b"".join(map(self._bytes, numbers))
        decoded: str = self._engine.decode(numbers, skip_special_tokens=True)
        return decoded.encode()

    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes each token stands for, int64 ``[vocabulary]``.

        Raises:
            ModelwrightError: the vocabulary is not byte-level: what a token stands for depends on its neighbours.
        """
        if not self._byte_level:
            raise ModelwrightError(
                "the bytes behind each token are known of byte-level vocabularies only",
                where=str(self._folder / FILE),
                remedy="judge by perplexity instead of bits-per-byte, or use the tokenizer bpe",
            )
        return np.array([len(self._bytes(token)) for token in range(self.vocabulary)], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Copy the files that were read."""
        for name in _KEPT:
            if (self._folder / name).is_file() and self._folder.resolve() != folder.resolve():
                with speaking(folder / name):
                    shutil.copyfile(self._folder / name, folder / name)

    def _ids(self, text: str) -> list[int]:
        return list(self._engine.encode(text, add_special_tokens=False).ids) if text else []

    def _byte(self, piece: str) -> list[int]:
        token = self._token_of.get(_CHARACTER[ord(piece) - 0xDC00]) if self._byte_level else None
        if token is None:
            raise ModelwrightError(
                "a text is not UTF-8, and this tokenizer takes no other",
                where=str(self._folder / FILE),
                remedy="write the text in UTF-8, or use the tokenizer byte or bpe",
            )
        return [token]

    def _bytes(self, token: int) -> bytes:
        """What a token of a byte-level vocabulary stands for; a hole in the numbering stands for nothing."""
        if token in self._added:
            return b"" if self._added[token].special else str(self._added[token].content).encode()
        try:
            return bytes(BYTES[character] for character in self._spelt.get(token, ""))
        except KeyError as error:
            raise ModelwrightError(
                f"token {token}, {self._spelt[token]!r}, is not written in the byte-level alphabet",
                where=str(self._folder / FILE),
                remedy="judge by perplexity instead of bits-per-byte, or use the tokenizer bpe",
            ) from error

    def _end(self, named: str | None) -> int:
        for text in [named] if named is not None else _ENDS:
            if text in self._token_of:
                return self._token_of[text]
        what = f"there is no token '{named}'" if named else "nothing says which token ends a text"
        added = ", ".join(str(token.content) for token in self._added.values())
        raise ModelwrightError(
            what, where=str(self._folder), remedy=f"set the tokenizer's end_of_text to one of: {added or 'its tokens'}"
        )


@dataclass(frozen=True, kw_only=True)
class Local:
    """The tokenizer of a local folder, such as one a ``transformers`` model came with. Nothing is learnt.

    Attributes:
        folder: where ``tokenizer.json`` lies; the ``tokenizer`` folder of one of our runs is one too.
        end_of_text: how the token between documents is spelt; ``None`` takes the folder's ``eos_token``.
    """

    folder: str
    end_of_text: str | None = None

    @property
    def library(self) -> str:
        """What decides which tokens a text becomes: the library's version and the files' hashes."""
        paths = [Path(self.folder, name) for name in _KEPT]
        hashes = [file_hash(path) for path in paths if path.is_file()]
        return " ".join([f"tokenizers {tokenizers.__version__}", *hashes])

    def train(self, texts: Iterable[Any]) -> LocalTokenizer:
        """Read ``folder``; nothing is learnt from ``texts``."""
        return self.load(Path(self.folder))

    def load(self, folder: Path) -> LocalTokenizer:
        """Read ``tokenizer.json`` of ``folder``.

        Raises:
            ModelwrightError: it is missing or damaged, or nothing says which token ends a text.
        """
        return LocalTokenizer(folder, self.end_of_text)


def _engine(path: Path) -> Engine:
    if not path.is_file():
        raise ModelwrightError(
            "there is no tokenizer.json in the folder",
            where=str(path),
            remedy="name the folder that holds it; transformers writes it with tokenizer.save_pretrained(FOLDER)",
        )
    try:
        engine = Engine.from_file(str(path))
    except Exception as error:
        raise ModelwrightError(f"this is no tokenizer: {error}", where=str(path)) from error
    engine.no_truncation()
    engine.no_padding()
    return engine


def _kinds(part: Any) -> Iterator[str]:
    """Types of a decoder and of those it is made of."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.get("decoders", []):
            yield from _kinds(inner)


def _spelling(entry: Any) -> str:
    """A special token is written as text, or as the fields of an added token."""
    return str(entry.get("content", "")) if isinstance(entry, dict) else str(entry)


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several under names
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None
