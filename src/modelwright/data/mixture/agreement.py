"""What sources must agree on, so that a number means the same whichever of them it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from modelwright.base.errors import ModelwrightError
from modelwright.data import Documents, Splits, Tokenizer
from modelwright.data.mixture.joined import Joined, Mixed
from modelwright.data.mixture.schedule import Schedule
from modelwright.data.tables.encoder import TableEncoder

_TOKENIZER = "tokenizer.json"


def merged(parts: Mapping[str, Splits], schedule: Schedule) -> Splits:
    """Sources as one: mixed to learn from, one after the other to judge by.

    Raises:
        ModelwrightError: they differ in tokenizer, facts, names of classes or fields, or standardise their own columns.
    """
    _check_tokenizers({name: part.tokenizer for name, part in parts.items()})
    _check_encoders(parts)
    _check_same("facts", {name: dict(part.facts) for name, part in parts.items()})
    _check_same("names of the classes", {name: part.classes for name, part in parts.items()})
    first = next(iter(parts.values()))
    held_out = {name: part.held_out for name, part in parts.items() if part.held_out is not None}
    return Splits(
        train=Mixed({name: part.train for name, part in parts.items()}, schedule),
        held_out=Joined(held_out) if held_out else None,
        facts=first.facts,
        tokenizer=first.tokenizer,
        documents=_documents(parts),
        encoder=first.encoder,
        classes=first.classes,
    )


def fingerprint(tokenizer: Tokenizer) -> str:
    """What its tokens mean: a hash of the ``tokenizer.json`` it saves, else of the bytes behind each token."""
    meaning = hashlib.sha256(f"{tokenizer.vocabulary} {tokenizer.end_of_text} ".encode())
    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        saved = Path(folder, _TOKENIZER)
        if saved.is_file():
            meaning.update(saved.read_bytes())
            return meaning.hexdigest()
    for token in range(tokenizer.vocabulary):
        text = tokenizer.decode([token])
        meaning.update(f"{len(text)} ".encode() + text)
    return meaning.hexdigest()


def _check_tokenizers(tokenizers: Mapping[str, Tokenizer | None]) -> None:
    """Tokenizers learnt from different texts give the same number to different words, also where sizes agree."""
    prints = {id(each): "" if each is None else fingerprint(each) for each in tokenizers.values()}  # many share one
    found = {name: prints[id(each)] for name, each in tokenizers.items()}
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ModelwrightError(
                f"'{first}' and '{other}' have different tokenizers: the same number would stand for other text",
                where="sources",
                remedy=f"tokenizer_from: {first}, or give all of them the same  tokenizer: {{use: local, folder: ...}}",
            )


def _check_encoders(parts: Mapping[str, Splits]) -> None:
    for name, part in parts.items():
        if isinstance(part.encoder, TableEncoder) and len(parts) > 1:
            raise ModelwrightError(
                f"the source '{name}' is a table that is encoded by its own means, spreads and categories",
                where=f"sources.{name}",
                remedy="name the files of all sources in one table; or mix arrays of your own (npy)",
            )


def _check_same(what: str, found: Mapping[str, object]) -> None:
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ModelwrightError(
                f"sources differ in {what}: {found[first]} in '{first}', {found[other]} in '{other}'",
                where="sources",
                remedy="mix only what one model can take",
            )


def _documents(parts: Mapping[str, Splits]) -> Documents | None:
    """The held-out documents of all sources, unless one has held-out samples without them."""
    judged = {name: part.documents for name, part in parts.items() if part.held_out is not None}
    known = {name: documents for name, documents in judged.items() if documents is not None}
    return _Documents(known) if known and len(known) == len(judged) else None


class _Documents:
    """Documents of several sources, named ``SOURCE/NAME``."""

    def __init__(self, parts: Mapping[str, Documents]) -> None:
        self._parts = dict(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for source, documents in self._parts.items():
            for name, text in documents:
                yield f"{source}/{name}", text
