"""The tokenizer that shards were made with: what is noted of it, and how it is loaded again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json, write_json
from modelwright.data import TOKENIZERS, Tokenizer
from modelwright.data.shards.manifest import Manifest

_SETTINGS = "tokenizer_settings.json"
_ITS_FOLDER = {"local": "folder"}  # fields that say where a tokenizer came from, not what it is


class ShardTokenizer:
    """A listed tokenizer that saves which one it is: a recipe of shards does not name it.

    Args:
        tokenizer: makes tokens.
        settings: the technique by its short name, and its fields.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self.vocabulary = tokenizer.vocabulary
        self.end_of_text = tokenizer.end_of_text

    def encode(self, text: bytes) -> NDArray[Any]:
        """Tokens of ``text``, int64 ``[tokens]``."""
        return self._tokenizer.encode(text)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of ``tokens``."""
        return self._tokenizer.decode(tokens)

    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes each token stands for, int64 ``[vocabulary]``."""
        return self._tokenizer.token_bytes()

    def save(self, folder: Path) -> None:
        """Write the tokenizer, and which it is."""
        self._tokenizer.save(folder)
        write_json(folder / _SETTINGS, dict(self._settings))

    def __getattr__(self, name: str) -> Any:
        """What the tokenizer has beyond the protocol, such as a chat template."""
        if name.startswith("_"):  # nothing is there yet while this is unpickled
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


class Kept:
    """Loads what :class:`ShardTokenizer` saved."""

    def load(self, folder: Path) -> Tokenizer:
        """The tokenizer in ``folder``.

        Raises:
            ModelwrightError: its files are missing or damaged.
        """
        return _loaded(read_json(folder / _SETTINGS), folder)


def noted_settings(technique: Any) -> dict[str, Any]:
    """The technique by its short name and its fields, as the manifest keeps them.

    Raises:
        ModelwrightError: the tokenizer is not listed: whoever opens the shards could not load it.
    """
    use = TOKENIZERS.short_name(type(technique))
    if use not in TOKENIZERS.listing:
        raise ModelwrightError(
            f"shards keep their tokenizer, and '{use}' is none that everybody has",
            where="data.tokenizer",
            remedy=f"choose one of {', '.join(TOKENIZERS.listing)}",
        )
    return {"use": use, **{name: value for name, value in asdict(technique).items() if name != _ITS_FOLDER.get(use)}}


def load_tokenizer(manifest: Manifest, folder: Path) -> Tokenizer | None:
    """The tokenizer of shards, from the copies of its files in ``folder``; ``None`` where nothing is noted of it.

    Raises:
        ModelwrightError: the manifest names one that is not listed, or its files are damaged.
    """
    settings = dict(manifest.tokenizer)
    if not settings and manifest.tokenizer_files:
        settings = {"use": "local"}
    return _loaded(settings, folder) if settings else None


def _loaded(settings: Mapping[str, Any], folder: Path) -> Tokenizer:
    use = str(settings.get("use"))
    if use not in TOKENIZERS.listing:  # never an import path: a manifest may come from a stranger
        raise ModelwrightError(
            f"the shards name an unknown tokenizer, {use!r}",
            where=str(folder),
            remedy="upgrade: pip install -U modelwright",
        )
    fields = {name: value for name, value in settings.items() if name != "use"}
    if use in _ITS_FOLDER:
        fields[_ITS_FOLDER[use]] = str(folder)
    try:
        technique = TOKENIZERS.resolve(use)(**fields)
    except TypeError as error:
        raise ModelwrightError(
            f"the shards' tokenizer has settings that are unknown here: {error}",
            where=str(folder),
            remedy="upgrade: pip install -U modelwright",
        ) from error
    return ShardTokenizer(technique.load(folder), settings)
