"""How shards are opened: mapped where they lie, or through the cache of what was downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import bytes_text
from modelwright.data import Tokenizer
from modelwright.data.shards.cache import ShardCache
from modelwright.data.shards.dataset import GroupedWindows, ShardWindows
from modelwright.data.shards.manifest import Shard, total_bytes, windows_of
from modelwright.data.shards.opened import OpenShard, OpenShards
from modelwright.data.shards.store import Store
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.windows import Packing, TokenWindows

STREAMED_TOGETHER = 8
_MOST_OPEN = 4096  # local shards; a process may map some 65,000 files, and each shard is up to four
_SPARE = 2  # shards at hand beyond those of two groups: held-out ones


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What it takes to open shards.

    Attributes:
        store: where they lie.
        cache: of downloads; for a folder there is nothing to keep.
        cache_bytes: how large the cache may become.
        context: tokens in a window.
        documents: as of :class:`modelwright.data.texts.windows.TokenWindows`.
        together: shards whose windows are shuffled together; ``None``: the default of the store.
    """

    store: Store
    cache: ShardCache
    cache_bytes: int
    context: int
    documents: Packing
    together: int | None

    def train(self, shards: Sequence[Shard], left_out: frozenset[str]) -> ShardWindows:
        """Windows of all shards; those of shards that are left out are holes.

        Raises:
            ModelwrightError: no window is left, or the cache is too small.
        """
        counts = [windows_of(shard.tokens, self.context) for shard in shards]
        present = [shard.name not in left_out for shard in shards]
        opening = partial(self._windows, shards, None, None)
        plain = self.context if self.documents == "joined" else None
        if self.store.folder is not None:
            open_shards = OpenShards(opening, _MOST_OPEN)
            if self.together is None:
                return ShardWindows(counts, present, open_shards, plain)
            return GroupedWindows(counts, present, open_shards, plain, together=self.together)
        together = self.together or STREAMED_TOGETHER
        self._check_room(shards, together)
        ahead = partial(self._bring, shards)
        open_shards = OpenShards(opening, together)
        return GroupedWindows(counts, present, open_shards, plain, together=together, ahead=ahead)

    def held_out(self, shards: Sequence[Shard], stride: int, tokenizer: Tokenizer | None) -> ShardWindows:
        """Windows to judge by, shard after shard."""
        counts = [windows_of(shard.tokens, self.context, stride) for shard in shards]
        token_bytes = tokenizer.token_bytes() if tokenizer is not None else None
        opening = partial(self._windows, shards, stride, token_bytes)
        most = 1 if self.store.folder is None else _MOST_OPEN
        return ShardWindows(counts, [True] * len(shards), OpenShards(opening, most))

    def indexed(self, shard: Shard) -> tuple[Indexed, Callable[[], None]]:
        """A shard's documents, and what is to be called when they are no longer read.

        Raises:
            ModelwrightError: the shard is damaged, or cannot be reached.
        """
        if self.store.folder is not None:
            return Indexed(self.store.folder / shard.name), _nothing
        held = self.cache.take(shard, self.store)
        return Indexed(held.folder / shard.name), held.close

    def _windows(
        self, shards: Sequence[Shard], stride: int | None, token_bytes: NDArray[np.int64] | None, number: int
    ) -> OpenShard:
        shard = shards[number]
        indexed, close = self.indexed(shard)
        if len(indexed.tokens) != shard.tokens:
            raise ModelwrightError(
                f"the shard {shard.name} holds {len(indexed.tokens)} tokens, and its manifest says {shard.tokens}",
                where=self.store.place(f"{shard.name}.bin"),
                remedy="build the shards again",
            )
        windows = TokenWindows(indexed, self.context, stride, token_bytes, self.documents)
        return OpenShard(windows, np.asarray(indexed.tokens), close)

    def _bring(self, shards: Sequence[Shard], numbers: list[int]) -> None:
        """Fetch ahead what there is room for; what fails here is met, and told, when it is read."""
        for number in numbers:
            try:
                self.cache.bring(shards[number], self.store, patience=0.0)
            except ModelwrightError:
                return

    def _check_room(self, shards: Sequence[Shard], together: int) -> None:
        largest = max(shard.bytes for shard in shards)
        need = min(2 * together * largest, total_bytes(shards)) + _SPARE * largest
        if need > self.cache_bytes:
            raise ModelwrightError(
                f"a cache of {bytes_text(self.cache_bytes)} is too small: two groups of {together} shards of up to"
                f" {bytes_text(largest)}, and {_SPARE} more, need {bytes_text(need)}",
                where="cache_bytes",
                remedy="raise cache_bytes, or lower shuffle_shards",
            )


class DecodedDocuments:
    """Held-out documents, back from their tokens; named ``SHARD:NUMBER``.

    Args:
        shards: that hold them.
        opening: opens them.
        tokenizer: that made the tokens.
    """

    def __init__(self, shards: Sequence[Shard], opening: Opening, tokenizer: Tokenizer) -> None:
        self._shards, self._opening, self._tokenizer = shards, opening, tokenizer

    def __len__(self) -> int:
        return sum(shard.documents for shard in self._shards)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of name and content, read when their turn comes.

        Raises:
            ModelwrightError: a shard is damaged, or cannot be reached.
        """
        for shard in self._shards:
            indexed, close = self._opening.indexed(shard)
            for number in range(len(indexed)):
                yield f"{shard.name}:{number}", self._tokenizer.decode(indexed.document(number).tolist())
            close()


def _nothing() -> None:
    """A mapped file needs no closing."""
