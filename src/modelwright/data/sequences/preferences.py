"""Preference pairs: a question, the answer to prefer and one to avoid, as for DPO (Rafailov et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Tokenizer
from modelwright.data.sequences.answers import shifted, tokens_of
from modelwright.data.sequences.chat import Chat, Message, Piece, check_messages
from modelwright.data.sequences.instructions import ChatRows, note_spelt
from modelwright.data.sequences.padded import Fill, Padded
from modelwright.data.sequences.ragged import Ragged
from modelwright.data.sequences.rows import Coding, Columns, Tally
from modelwright.data.sequences.sources import Parts, Row, Source, record_files
from modelwright.data.texts.windows import NOT_SCORED

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class ChatPairs(ChatRows):
    """Pairs of chats that share their beginning; targets are -100 but where an assistant wrote after it.

    Attributes:
        template: ``plain``, ``chatml``, ``tokenizer`` (the template a local tokenizer brings), a file that ends
            in ``.jinja``, or Jinja itself.
        context: tokens in a sample; a longer one loses its end.
        pad: token that fills up a shorter one; ``None``: the tokenizer's own, else its end of text.
        tokenizer: what makes tokens; learnt from the training rows only.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its question, so rows
            with the same question stay together.
        seed: chooses which rows are held out.
    """

    kind: ClassVar[str] = "preferences"
    columns: ClassVar[tuple[str, ...]] = ("chosen", "chosen_targets", "rejected", "rejected_targets")

    def identity(self, row: Row) -> object:
        """The messages that both chats begin with; where there are none, the chosen chat."""
        chosen, rejected = self.chats(row)
        return [dict(message) for message in chosen[: shared(chosen, rejected) or len(chosen)]]

    def coding(self, tokenizer: Tokenizer, parts: Parts) -> Coding:
        """Tokens of both rendered chats, shifted."""
        return Coding(self.columns, partial(self._encoded, tokenizer, self.chat(tokenizer)))

    def dataset(self, rows: Ragged, tokenizer: Tokenizer) -> Dataset:
        """``chosen``, ``chosen_targets``, ``rejected`` and ``rejected_targets``, int64 ``[rows, context]``."""
        fills = {name: NOT_SCORED if name.endswith("targets") else self.fill(tokenizer) for name in self.columns}
        return Padded(rows, {name: Fill(name, self.context, fill) for name, fill in fills.items()})

    def _encoded(self, tokenizer: Tokenizer, chat: Chat, row: Row, tally: Tally) -> Columns | None:
        chats = self.chats(row)
        note_spelt([message for messages in chats for message in messages], tokenizer, row, tally)
        answers = sum(message["role"] == "assistant" for message in chats[0][: shared(*chats)])
        pairs = [
            shifted(*tokens_of(_unlearnt(chat.pieces(messages, row.where), answers), tokenizer)) for messages in chats
        ]
        if not all(map(_learns, pairs)):
            return tally.leave_out("empty", row)
        cut = [(inputs[: self.context], targets[: self.context]) for inputs, targets in pairs]
        if not all(map(_learns, cut)):
            return tally.leave_out("dropped", row)
        if all(np.array_equal(one, other) for one, other in zip(*cut, strict=True)):
            return tally.leave_out("alike", row)
        if any(len(inputs) > self.context for inputs, _ in pairs):
            tally.note("cut", row)
        return dict(zip(self.columns, (*cut[0], *cut[1]), strict=True))


@dataclass(frozen=True, kw_only=True)
class Preferences(ChatPairs):
    """Records with ``chosen`` and ``rejected``, and perhaps ``prompt``: texts, or lists of messages.

    Without a ``prompt`` both are whole chats; with one they may be so too, and begin with it.

    Attributes:
        files: patterns of files of records, such as ``pairs/*.jsonl``.
        held_out_files: patterns of records to judge by, instead of a part of ``files``.
        root: the folder that patterns start from.
        template: ``plain``, ``chatml``, ``tokenizer`` (the template a local tokenizer brings), a file that ends
            in ``.jinja``, or Jinja itself.
        context: tokens in a sample; a longer one loses its end.
        pad: token that fills up a shorter one; ``None``: the tokenizer's own, else its end of text.
        tokenizer: what makes tokens; learnt from the training rows only.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its question, so rows
            with the same question stay together.
        seed: chooses which rows are held out.
    """

    files: tuple[str, ...]
    held_out_files: tuple[str, ...] = ()
    root: str = "."

    def sources(self) -> dict[str, Source]:
        """The records."""
        return record_files(self.files, self.held_out_files, self.root)

    def chats(self, row: Row) -> list[list[Message]]:
        """The chosen and the rejected chat of a record."""
        asked = _messages(row, "prompt", "user") if "prompt" in row.values else []
        return [_joined(asked, _messages(row, name, "assistant"), row, name) for name in ("chosen", "rejected")]


def shared(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages both chats begin with."""
    pairs = zip(chosen, rejected, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))


def _messages(row: Row, column: str, role: str) -> list[Message]:
    value = row.value(column)
    messages = [{"role": role, "content": value}] if isinstance(value, str) else value
    return check_messages(messages, f"{row.where}, {column}")


def _joined(asked: list[Message], said: list[Message], row: Row, column: str) -> list[Message]:
    """The prompt and what follows it; data sets repeat the prompt at the beginning of both chats."""
    if len(said) >= len(asked) and all(map(_same, asked, said)):
        return said
    if asked and asked[-1]["role"] == said[0]["role"] == "user":
        raise ModelwrightError(
            f"'{column}' begins with a question of its own, which is not the prompt",
            where=row.where,
            remedy="let it hold the answer alone, or begin with the prompt, word for word; or leave the prompt out",
        )
    return [*asked, *said]


def _same(one: Message, other: Message) -> bool:
    return (one["role"], one["content"]) == (other["role"], other["content"])


def _unlearnt(pieces: list[Piece], answers: int) -> list[Piece]:
    """The pieces with the first ``answers`` answers no longer learnt."""
    kept: list[Piece] = []
    for piece in pieces:
        if piece.learnt and answers > 0:
            answers -= 1
            piece = replace(piece, learnt=False)
        kept.append(piece)
    return kept


def _learns(pair: Pair) -> bool:
    return bool((pair[1] != NOT_SCORED).any())
