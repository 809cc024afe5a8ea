"""``data show``: samples as a model sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from modelwright.app.places import data_cache
from modelwright.base.errors import ModelwrightError
from modelwright.data import SAMPLING, Tokenizer
from modelwright.data.batches import read, there
from modelwright.data.shards.token_shards import TokenShards

Facts = dict[str, Any]
END = "<end of text>"


def show(path: str, *, count: int, context: int, seed: int) -> list[Facts]:
    """The first samples of the order, decoded; JSON-ready.

    Args:
        path: folder or URL.
        count: how many.
        context: tokens in a window.
        seed: of the order, as a recipe's.

    Raises:
        ModelwrightError: there are no shards, they are damaged, or nothing is known of their tokenizer.
    """
    data = TokenShards(path=path, context=context)
    splits = data.open(data.prepare(data_cache()))
    if splits.tokenizer is None:
        raise ModelwrightError("the manifest does not say which tokenizer made the tokens", where=path)
    order = SAMPLING.resolve("global")().order(splits.train, batch=1, seed=seed)
    indices = np.asarray(order(np.arange(min(count, len(splits.train)))))
    indices = indices[there(splits.train, indices)]
    rows = read(splits.train, indices)["inputs"].tolist()
    tokenizer = splits.tokenizer
    return [
        {"position": position, "sample": int(index), "tokens": row, "text": spelt(row, tokenizer)}
        for position, (index, row) in enumerate(zip(indices, rows, strict=True))
    ]


def shown(rows: list[Facts]) -> RenderableType:
    """The samples one after the other, safe for a terminal."""
    parts = []
    for row in rows:
        parts.append(Text(f"position {row['position']}, sample {row['sample']}", style="bold"))
        parts.append(Text(row["text"]))
    return Group(*parts)


def spelt(tokens: list[int], tokenizer: Tokenizer) -> str:
    """Tokens as text: ends of text are named, and what a terminal would obey is escaped."""
    pieces: list[list[int]] = [[]]
    for token in tokens:
        if token == tokenizer.end_of_text:
            pieces.append([])
        else:
            pieces[-1].append(token)
    texts = [tokenizer.decode(piece).decode("utf-8", "backslashreplace") for piece in pieces]
    return END.join("".join(map(_safe, text)) for text in texts)


def _safe(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
