"""A tokenizer that one source has, for the others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from modelwright.data import Tokenizer
from modelwright.data.mixture.agreement import fingerprint
from modelwright.data.tokenizers.tokenizing import tokenizer_settings


@dataclass(frozen=True)
class Shared:
    """Stands for a tokenizer that is there already; nothing is learnt, nothing read.

    Attributes:
        meaning: what its tokens stand for and what makes them. Where it lies is left out, so that prepared tokens are
            known by it in any place.
        given: the tokenizer itself.
    """

    meaning: str
    given: InitVar[Tokenizer]

    def __post_init__(self, given: Tokenizer) -> None:
        object.__setattr__(self, "_given", given)

    def train(self, texts: Iterable[bytes]) -> Tokenizer:
        """The tokenizer; ``texts`` are not read."""
        tokenizer: Tokenizer = self.__dict__["_given"]
        return tokenizer

    def load(self, folder: Path) -> Tokenizer:
        """The tokenizer, of which ``folder`` holds a copy."""
        return self.train(())


def shared(tokenizer: Tokenizer, technique: Any) -> Shared:
    """``tokenizer``, which ``technique`` has made."""
    settings = tokenizer_settings(technique) if is_dataclass(technique) else {}
    return Shared(f"{fingerprint(tokenizer)} {json.dumps(settings, sort_keys=True)}", tokenizer)
