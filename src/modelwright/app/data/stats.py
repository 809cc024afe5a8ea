"""``data stats``: what a folder of shards holds, from its manifest alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from modelwright.base.units import bytes_text, count_text
from modelwright.data.shards.manifest import NAME, Shard, parse, total_bytes, windows_of
from modelwright.data.shards.store import open_store

Facts = dict[str, Any]


def stats(path: str, contexts: Sequence[int]) -> Facts:
    """Counts of each split, and for each context how many windows there are and what they leave out; JSON-ready.

    Args:
        path: folder or URL.
        contexts: tokens in a window.

    Raises:
        ModelwrightError: there are no shards.
    """
    store = open_store(path)
    manifest = parse(store.read(NAME), store.place(NAME))
    splits = {
        split: summed(shards) | {"windows": _windows(shards, contexts)} for split, shards in manifest.splits.items()
    }
    return {"path": path, "vocabulary": manifest.vocabulary, "tokenizer": dict(manifest.tokenizer), "splits": splits}


def summed(shards: Sequence[Shard]) -> Facts:
    """Counts of several shards."""
    tokens = sum(shard.tokens for shard in shards)
    documents, text_bytes = sum(shard.documents for shard in shards), sum(shard.text_bytes for shard in shards)
    return {
        "shards": len(shards),
        "documents": documents,
        "tokens": tokens,
        "text_bytes": text_bytes,
        "bytes": total_bytes(shards),
        "bytes_per_token": text_bytes / max(1, tokens - documents),  # without the ends of text
    }


def counted(facts: Facts) -> RenderableType:
    """Counts as a table."""
    use = escape(str(facts["tokenizer"].get("use", "unknown")))
    made = Table("", *facts["splits"], box=None, pad_edge=False, title=f"{facts['vocabulary']} tokens of {use}")
    splits = list(facts["splits"].values())
    for name, shown in _SHOWN.items():
        made.add_row(name.replace("_", " "), *(shown(split[name]) for split in splits))
    for context in splits[0]["windows"]:
        made.add_row(f"windows of {context}", *(_windows_shown(split, context) for split in splits))
    return made


def _windows(shards: Sequence[Shard], contexts: Sequence[int]) -> Facts:
    """Windows side by side; held-out ones reach to the end of a shard and leave nothing out."""
    found = {}
    for context in contexts:
        windows = [windows_of(shard.tokens, context) for shard in shards]
        # the first token of a shard is no target, and the last part that fills no window is dropped
        dropped = sum(max(0, shard.tokens - 1) for shard in shards) - context * sum(windows)
        found[str(context)] = {"count": sum(windows), "dropped": dropped}
    return found


def _windows_shown(split: Facts, context: str) -> str:
    windows = split["windows"][context]
    share = windows["dropped"] / max(1, split["tokens"])
    return f"{windows['count']:,}, {windows['dropped']:,} tokens dropped ({share:.3%})"


_SHOWN = {
    "shards": "{:,}".format,
    "documents": "{:,}".format,
    "tokens": count_text,
    "text_bytes": bytes_text,
    "bytes": bytes_text,
    "bytes_per_token": "{:.3f}".format,
}
