"""A mixture of ten sources and 10^12 tokens: how fast it opens, what it holds, what a step's positions cost.

    python benchmarks/mixture.py [--repeats 5]

The sources are the manifests of token shards of 16 million tokens (62,500 of them in all, whose files are not there),
and lengths only. Times are process time, medians of the repeats; those of positions are of one step, beside the order
of one data set of the same length. Reading is of 1,024 tokens a sample from memory, beside one array.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from modelwright.base.detect import detect
from modelwright.data.memory import InMemory
from modelwright.data.mixture.joined import Mixed
from modelwright.data.mixture.schedule import Schedule
from modelwright.data.order import Order
from modelwright.data.shards.dataset import ShardWindows
from modelwright.data.shards.manifest import NAME, File, Manifest, Shard, parse, windows_of
from modelwright.data.shards.opened import OpenShard, OpenShards
from modelwright.data.texts import indexed
from modelwright.data.texts.windows import TokenWindows

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

CONTEXT, TOKENS = 2048, 10**12
SHARD = 16_000_000  # Tokens.
WEIGHTS = {
    "web": 45.5,
    "code": 17.2,
    "books": 11,
    "papers": 9.3,
    "encyclopedia": 6,
    "forums": 5,
    "maths": 3.1,
    "law": 1.9,
    "dialogue": 0.9,
    "tables": 0.1,
}
SHARES = dict(zip(WEIGHTS, (600, 150, 80, 60, 20, 50, 15, 15, 8, 2), strict=True))  # of a thousand


class Lengths:
    """A source that is only a length."""

    alike = True

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, positions: Positions) -> Batch:
        return {"inputs": torch.from_numpy(np.asarray(positions, dtype=np.int64))}


def lengths() -> dict[str, int]:
    return {name: TOKENS * share // (1000 * CONTEXT) for name, share in SHARES.items()}


def opened(sizes: Mapping[str, int]) -> Mixed:
    phases = {0: WEIGHTS, 300_000_000: {**dict.fromkeys(WEIGHTS, 1.0), "maths": 6.5}}
    return Mixed({name: Lengths(length) for name, length in sizes.items()}, Schedule(phases))


def manifests() -> dict[str, bytes]:
    """A manifest for each source."""
    return {name: _manifest(TOKENS * share // (1000 * SHARD)) for name, share in SHARES.items()}


def _manifest(shards: int) -> bytes:
    names = [f"train-{number:05d}" for number in range(shards)]
    written = [
        Shard(name, 10_000, SHARD, 4 * SHARD, tuple(File(f"{name}{end}", SHARD, "0" * 64) for end in (".bin", ".idx")))
        for name in names
    ]
    return json.dumps(Manifest(50_000, {"train": tuple(written)}).to_json()).encode()


def opened_shards(contents: Mapping[str, bytes], only: OpenShard) -> Mixed:
    """The mixture of these sources; whatever shard is asked for, ``only`` is there."""
    return Mixed({name: _windows(content, only) for name, content in contents.items()}, Schedule({0: WEIGHTS}))


def _windows(content: bytes, only: OpenShard) -> ShardWindows:
    counts = [windows_of(shard.tokens, CONTEXT) for shard in parse(content, NAME).splits["train"]]
    return ShardWindows(counts, [True] * len(counts), OpenShards(lambda number: only, 1), CONTEXT)


@contextmanager
def one_shard() -> Iterator[OpenShard]:
    with tempfile.TemporaryDirectory() as folder:
        indexed.write(Path(folder) / "tokens", [np.arange(2 * CONTEXT)], 50_000)
        tokens = indexed.Indexed(Path(folder) / "tokens")
        yield OpenShard(TokenWindows(tokens, CONTEXT), tokens.tokens, lambda: None)


def seconds(work: Callable[[], object], repeats: int, times: int) -> float:
    taken = []
    for _ in range(repeats):
        before = time.process_time()
        for _ in range(times):
            work()
        taken.append((time.process_time() - before) / times)
    return statistics.median(taken)


def held(work: Callable[[], object]) -> int:
    tracemalloc.start()
    kept = work()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size


def worst_window(order: Callable[[np.ndarray], np.ndarray], dataset: Mixed, places: int) -> float:
    """How many samples any window within the first ``places`` is off from its share of any source."""
    begins = np.array(sorted(dataset.begins.values()))
    names = sorted(dataset.begins, key=lambda name: dataset.begins[name])
    sources = np.searchsorted(begins, order(np.arange(places)), side="right") - 1
    total, worst = sum(WEIGHTS.values()), 0.0
    for number, name in enumerate(names):
        off = np.cumsum(sources == number) - np.arange(1, places + 1) * (WEIGHTS[name] / total)
        worst = max(worst, float(off.max() - off.min()))
    return worst


def opening(repeats: int) -> Mixed:
    sizes = lengths()
    dataset = opened(sizes)
    print(f"{sum(sizes.values()) * CONTEXT:,} tokens in {len(dataset):,} samples of {len(sizes)} sources, two phases")
    print(f"opens in {seconds(lambda: opened(sizes).order(0), repeats, 20) * 1e3:.2f} ms")
    contents = manifests()
    size = sum(map(len, contents.values()))
    with one_shard() as only:
        taken = seconds(lambda: opened_shards(contents, only).order(0), repeats, 1)
    print(f"opens in {taken * 1e3:.0f} ms from {len(contents)} manifests of {size:,} bytes, {TOKENS // SHARD:,} shards")
    print(f"holds {held(lambda: opened(sizes).order(0)):,} bytes in memory")
    configuration = json.dumps({"seed": 0, "lengths": sizes, "weights": WEIGHTS})
    print(f"state: a position, 8 bytes; configuration as JSON: {len(configuration)} bytes")
    return dataset


def positions(dataset: Mixed, repeats: int) -> None:
    mixture, single = dataset.order(0), Order(len(dataset), 0)
    for batch in (64, 1024, 16384):
        asked = np.arange(10**8, 10**8 + batch)
        times = max(5, 20_000 // batch)
        ours, bare = (seconds(lambda: order(asked), repeats, times) for order in (mixture, single))  # noqa: B023
        print(f"{batch:6} positions: {ours * 1e6:6.0f} us, a single order {bare * 1e6:6.0f} us")
    print(
        f"worst window of the first 2,000,000 positions: off by {worst_window(mixture, dataset, 2_000_000):.2f} samples"
    )


def reading(repeats: int) -> None:
    tokens = torch.arange(4000 * 1024).reshape(4000, 1024)
    whole = InMemory({"inputs": tokens})
    parts = {f"{number}": InMemory({"inputs": tokens[number * 400 : (number + 1) * 400]}) for number in range(10)}
    joined = Mixed(parts, Schedule({0: dict.fromkeys(parts, 1.0)}))
    asked = Order(4000, 0)(np.arange(64))
    one, ten = (seconds(lambda: each.__getitems__(asked), repeats, 200) for each in (whole, joined))  # noqa: B023
    print(f"64 samples of 1,024 tokens: {ten * 1e6:.0f} us from ten sources, {one * 1e6:.0f} us from one array")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = detect()
    print(f"{machine.device_name}, 1 thread, torch {torch.__version__}, numpy {np.__version__}")
    dataset = opening(options.repeats)
    positions(dataset, options.repeats)
    reading(options.repeats)


if __name__ == "__main__":
    main()
