"""Samples per CPU-second: ours, a bare gather from a mapped file, torch's DataLoader, litdata and datasets.

    pip install -e '.[all]' litdata psutil && python benchmarks/loading.py [--kind tokens images] [--repeats 5]

Windows of 1,024 tokens (uint16 in a file of 200 MB, int64 inputs and targets in a batch) and images of 3 x 64 x 64
bytes (200 MB), at random, 256 a batch. All files are in memory before (the page cache). The time is that of the CPU, in
all threads and processes of a measurement, between two batches, after a warm-up. Ours writes each step's samples to a
run's sample log before it is handed out, and cuts micro-batches of 32; the others keep no account. Each measurement is
a process of its own; arms alternate within a repeat. Rivals are measured at several settings, of which the best counts.
The bare gather knows all indices beforehand. Ratios to the fastest bare gather of the same repeat come first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import psutil
import torch

from loading_arms import IMAGE_ARMS, TOKEN_ARMS, Pairs, make
from modelwright.base.detect import detect

ARMS = {"tokens": TOKEN_ARMS, "images": IMAGE_ARMS}


def cpu_seconds() -> float:
    """Of this process and those it started, in all of their threads."""
    others = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        others += times.user + times.system
    return time.process_time() + others


def rate(batches: Pairs, seconds: float) -> float:
    """Samples per CPU-second, for so long on the clock, after a warm-up."""
    # As in a training after its first step: once glibc has seen so much freed, it keeps what batches give back.
    np.empty(31 * 2**20, dtype=np.uint8)
    _until(batches, seconds / 4)
    before = cpu_seconds()
    samples = _until(batches, seconds)
    return samples / (cpu_seconds() - before)


def _until(batches: Pairs, seconds: float) -> int:
    samples, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        inputs, _ = next(batches)
        samples += len(inputs)
    return samples


def forked(arm, folder: Path, batch: int, seconds: float) -> float | None:
    """The rate of an arm in a process of its own; ``None`` where it failed, its reason on stderr."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                result.write_text(json.dumps(rate(arm(folder, batch), seconds)))
            except BaseException:
                traceback.print_exc()
            finally:
                for process in psutil.Process().children(recursive=True):
                    process.kill()
                os._exit(0)
        os.waitpid(child, 0)
        return json.loads(result.read_text()) if result.exists() else None


def measure(kind: str, options: argparse.Namespace) -> None:
    arms = {(name, setting): arm for name, settings in ARMS[kind].items() for setting, arm in settings.items()}
    arms = {key: arm for key, arm in arms.items() if not options.only or any(word in key[0] for word in options.only)}
    found: dict[tuple[str, str], list[float]] = {key: [] for key in arms}
    for key, arm in list(arms.items()):  # whatever is to be written is, and what does not run is left out
        if forked(arm, options.folder, options.batch, 0.2) is None:
            del arms[key], found[key]
    for _ in range(options.repeats):
        for key, arm in arms.items():
            if (measured := forked(arm, options.folder, options.batch, options.seconds)) is not None:
                found[key].append(measured)
    show(found)


def show(found: dict[tuple[str, str], list[float]]) -> None:
    bare = [rates for (name, _), rates in found.items() if name.startswith("bare")]
    base = [max(each) for each in zip(*bare, strict=True)]
    for (name, setting), rates in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        ratios = [mine / theirs for mine, theirs in zip(rates, base, strict=False)]
        print(
            f"  {statistics.median(ratios):6.3f} x ({min(ratios):.3f}-{max(ratios):.3f})  "
            f"{statistics.median(rates):10,.0f} a CPU-second ({min(rates):,.0f}-{max(rates):,.0f})  {name}  {setting}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "modelwright-loading")
    parser.add_argument("--only", nargs="*", help="arms whose names hold one of these words, beside the bare gather")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.only:
        options.only.append("bare")
    torch.set_num_threads(1)  # threads that exist would be missing in the forked processes, which would wait for them
    make(options.folder)
    machine = detect()
    load = os.getloadavg()[0]
    print(f"{machine.device_name}, {os.cpu_count()} cores, load {load:.1f} before, torch {torch.__version__}")
    for kind in options.kind:
        print(f"{kind}, {options.batch} a batch:")
        measure(kind, options)
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
