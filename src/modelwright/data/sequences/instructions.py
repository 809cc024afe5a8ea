"""Instructions: chats of which the answers are learnt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modelwright.data import Dataset, Tokenizer
from modelwright.data.sequences.answers import asked_tokens, shifted, tokens_of
from modelwright.data.sequences.chat import END, Chat, Message, chat_of, check_messages, template_source
from modelwright.data.sequences.padded import Fill, Padded
from modelwright.data.sequences.ragged import Ragged
from modelwright.data.sequences.rows import Coding, Columns, Tally, TokenRows, check_length
from modelwright.data.sequences.sources import Parts, Row, Source, record_files
from modelwright.data.texts.windows import NOT_SCORED

_TEMPLATE = "template_text"


@dataclass(frozen=True, kw_only=True)
class ChatRows(TokenRows):
    """Rows of chats, for :class:`Instructions` and :class:`modelwright.data.sequences.preferences.Preferences`.

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

    template: str = "plain"
    context: int = 512
    pad: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length("context", self.context)
        if self.template != "tokenizer":
            _untrained(template_source(self.template))

    @abstractmethod
    def chats(self, row: Row) -> list[list[Message]]:
        """The chats of a row."""

    def extra_settings(self) -> dict[str, Any]:
        """The text of the template, wherever it lies; a tokenizer's own is known by its files."""
        return {} if self.template == "tokenizer" else {_TEMPLATE: template_source(self.template)}

    def texts(self, row: Row) -> list[str]:
        """The chats as they are rendered, in the pieces that a tokenizer of our own gets."""
        chat = _untrained(template_source(self.template, self.tokenizer))
        pieces = [piece for messages in self.chats(row) for piece in chat.pieces(messages, row.where)]
        return [text for piece in pieces for text in piece.text.split(END) if text]

    def fill(self, tokenizer: Tokenizer) -> int:
        """The token that fills up a sample."""
        own = getattr(tokenizer, "pad", None) if self.pad is None else self.pad
        return tokenizer.end_of_text if own is None else int(own)

    def chat(self, tokenizer: Tokenizer) -> Chat:
        """The template with the tokenizer's special tokens: what a prompt must be rendered with."""
        return chat_of(self.template, tokenizer)

    def asked(self, text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """What a model that learnt from these rows is given to answer ``text``, int64 ``[tokens]``.

        A text that ends as the template lets an answer begin is taken for a rendered chat; any other is a user's
        question.
        """
        return asked_tokens(self.chat(tokenizer), text, tokenizer)


@dataclass(frozen=True, kw_only=True)
class Chats(ChatRows):
    """Chats as next-token samples: of ``targets`` only what an assistant wrote is not -100.

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

    kind: ClassVar[str] = "instructions"
    columns: ClassVar[tuple[str, ...]] = ("inputs", "targets")

    def identity(self, row: Row) -> object:
        """The messages before the first answer; all of them where nothing comes before it."""
        messages = self.chats(row)[0]
        first = next((place for place, message in enumerate(messages) if message["role"] == "assistant"), 0)
        return [dict(message) for message in messages[: first or len(messages)]]

    def coding(self, tokenizer: Tokenizer, parts: Parts) -> Coding:
        """Tokens of the rendered chats, shifted."""
        return Coding(self.columns, partial(self._encoded, tokenizer, self.chat(tokenizer)))

    def dataset(self, rows: Ragged, tokenizer: Tokenizer) -> Dataset:
        """``inputs`` and ``targets``, int64 ``[rows, context]``."""
        return Padded(
            rows,
            {
                "inputs": Fill("inputs", self.context, self.fill(tokenizer)),
                "targets": Fill("targets", self.context, NOT_SCORED),
            },
        )

    def _encoded(self, tokenizer: Tokenizer, chat: Chat, row: Row, tally: Tally) -> Columns | None:
        messages = self.chats(row)[0]
        note_spelt(messages, tokenizer, row, tally)
        inputs, targets = shifted(*tokens_of(chat.pieces(messages, row.where), tokenizer))
        if not (targets != NOT_SCORED).any():
            return tally.leave_out("empty", row)
        if not (targets[: self.context] != NOT_SCORED).any():
            return tally.leave_out("dropped", row)
        if len(inputs) > self.context:
            tally.note("cut", row)
        return {"inputs": inputs[: self.context], "targets": targets[: self.context]}


@dataclass(frozen=True, kw_only=True)
class Instructions(Chats):
    """Records with ``messages`` (a list of ``role`` and ``content``), or with ``prompt`` and ``completion``.

    Attributes:
        files: patterns of files of records, such as ``chats/*.jsonl``.
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
        """The one chat of a record."""
        return [chat_in(row)]


def chat_in(row: Row) -> list[Message]:
    """The chat of a record with ``messages``, or with ``prompt`` and ``completion``.

    Raises:
        ModelwrightError: it has neither, or they are malformed.
    """
    if "prompt" in row.values and "messages" not in row.values:
        asked, answered = row.text("prompt"), row.text("completion")
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return check_messages(messages, row.where)
    return check_messages(row.value("messages"), row.where)


def note_spelt(messages: list[Message], tokenizer: Any, row: Row, tally: Tally) -> None:
    """Note a message that spells a special token: in a rendered chat it cannot be told from the template's own."""
    special: Mapping[str, str] = getattr(tokenizer, "special", {})
    if any(spelt in message["content"] for spelt in special.values() for message in messages):
        tally.note("spelt", row)


@lru_cache(maxsize=8)
def _untrained(source: str) -> Chat:
    """A template for a tokenizer that is still to be learnt."""
    return Chat(source, {"bos_token": END, "eos_token": END, "ends": END})
