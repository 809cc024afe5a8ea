"""Which positions of the time dim each rank computes, and which blocks of scores there are therefore."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Places:
    """Positions by rank: each has the same number of runs of the same length, one behind the other in its memory.

    Attributes:
        starts: of each rank's runs.
        length: of a run.
    """

    starts: tuple[tuple[int, ...], ...]
    length: int

    @classmethod
    def contiguous(cls, time: int, ranks: int) -> Places:
        """Rank r has the r-th part."""
        length = time // ranks
        return cls(starts=tuple((rank * length,) for rank in range(ranks)), length=length)

    @classmethod
    def zigzag(cls, time: int, ranks: int) -> Places:
        """Rank r has part r and part 2 * ranks - 1 - r of twice as many: in causal attention all have equal work."""
        length = time // (2 * ranks)
        return cls(
            starts=tuple((rank * length, (2 * ranks - 1 - rank) * length) for rank in range(ranks)), length=length
        )

    def runs(self, rank: int) -> list[tuple[slice, slice]]:
        """Of a rank: where each run lies in its memory, and in time."""
        return [
            (slice(number * self.length, (number + 1) * self.length), slice(start, start + self.length))
            for number, start in enumerate(self.starts[rank])
        ]


def hidden(queries: slice, keys: slice) -> bool:
    """Whether in causal attention none of the queries sees any of the keys."""
    return bool(keys.start > queries.stop - 1)


def diagonal(queries: slice, keys: slice) -> int | None:
    """Query i of the block sees the keys up to ``i + diagonal``; ``None`` where all is seen."""
    return None if keys.stop - 1 <= queries.start else int(queries.start - keys.start)
