"""Chats as tokens, with targets on what an assistant wrote and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data.sequences.chat import END, Chat, Message, Piece, check_messages
from modelwright.data.texts.windows import NOT_SCORED
from modelwright.data.tokenizers.tokenizing import utf8


def tokens_of(pieces: Sequence[Piece], tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens of a rendered chat, and which of them are learnt; both ``[tokens]``.

    A tokenizer of our own encodes each piece by itself, so no token crosses from a question into its answer, and
    what is learnt is what generation sees. A local one encodes the whole text, as ``transformers`` does, and a
    token that holds any of an answer is learnt.
    """
    if hasattr(tokenizer, "encode_marked"):
        return _whole(pieces, tokenizer)
    coded = [_by_itself(piece.text, tokenizer) for piece in pieces]
    learnt = [np.full(len(tokens), piece.learnt) for tokens, piece in zip(coded, pieces, strict=True)]
    return np.concatenate(coded), np.concatenate(learnt)


def prompt_tokens(chat: Chat, messages: Sequence[Message], tokenizer: Any) -> NDArray[np.int64]:
    """What a model is given to answer ``messages``, int64 ``[tokens]``: as training began each such sample."""
    return tokens_of([Piece(chat.render(messages, prompt=True), False)], tokenizer)[0]


def asked_tokens(chat: Chat, text: str, tokenizer: Any) -> NDArray[np.int64]:
    """What a model is given to answer ``text``, int64 ``[tokens]``.

    A text that ends as the template lets an answer begin (``assistant:`` and a line feed) is taken for a rendered
    chat; any other is a user's question.
    """
    question = {"role": "user", "content": text}
    alone, answered = chat.render([question]), chat.render([question], prompt=True)
    opening = answered.removeprefix(alone) if answered.startswith(alone) else ""
    if not opening or not text.endswith(opening):
        return prompt_tokens(chat, check_messages([question], "the prompt"), tokenizer)
    beginning = chat.render([question]).partition(text)[0]
    begins = [END] if beginning.startswith(END) and not text.startswith(END) else []
    return tokens_of([Piece("".join([*begins, text]), False)], tokenizer)[0]


def shifted(tokens: NDArray[np.int64], learnt: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inputs and targets, int64 ``[tokens - 1]``: ``targets[t]`` follows ``inputs[t]``, -100 where not learnt."""
    return tokens[:-1], np.where(learnt[1:], tokens[1:], NOT_SCORED)


def _by_itself(text: str, tokenizer: Any) -> NDArray[np.int64]:
    first, *others = text.split(END)
    parts = [tokenizer.encode(utf8(first))]
    for other in others:
        parts += [np.array([tokenizer.end_of_text], dtype=np.int64), tokenizer.encode(utf8(other))]
    return np.concatenate(parts)


def _whole(pieces: Sequence[Piece], tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    tokens, places = tokenizer.encode_marked("".join(piece.text for piece in pieces))
    flags = np.repeat([piece.learnt for piece in pieces], [len(piece.text) for piece in pieces])
    before = np.concatenate([[0], np.cumsum(flags)])  # learnt characters before each place
    return tokens, before[places[:, 1]] > before[places[:, 0]]
