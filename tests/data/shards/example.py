"""Shards for the contracts."""

from __future__ import annotations

from pathlib import Path

from tests.data.shards.made import build, write_texts

from modelwright.data.shards.token_shards import TokenShards


def token_shards(folder: Path) -> TokenShards:
    """Shards in ``folder``."""
    build(write_texts(folder / "shard-texts"), folder / "shards")
    return TokenShards(path=str(folder / "shards"), context=16, held_out_stride=5)
