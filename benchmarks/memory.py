"""Peak memory and time of what saves memory, beside the plain way.

    python benchmarks/memory.py [--parts head checkpointing offload] [--repeats 3] [--threads 1] [--device cpu]

Each number comes from a fresh process: a first step, whose peak of resident memory is counted from what was resident
before it, then a few timed ones. The ways alternate within each repeat; medians.

- head: a linear head with its cross-entropy, torch's own, in blocks, and chunked. A step is the head's forward pass,
  the loss and their backward pass, with gradients for features and weight.
- checkpointing: whole training steps of the demo's GPT at larger contexts, with no, selective and full recomputation;
  on a CPU its time is that of the process, not of the clock.
- offload: whole training steps of a GPT of 0.2 billion parameters, moments on the device or in the host's memory; on
  CUDA only. There, here and above, the peak is that of torch's allocator, from what was allocated before the steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.detect import detect
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.models.gpt import GPT
from modelwright.objectives.cross_entropy import cross_entropy_total
from modelwright.objectives.linear_cross_entropy import LinearHead, linear_cross_entropy_total
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.training.measure import peak_bytes
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training

WIDTH = 192
SIZES = ((2048, 2048), (2048, 4096), (16384, 2048), (50304, 2048))  # vocabulary, tokens
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMED = 3


def torchs(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(features, weight).float(), targets, reduction="sum")


def blocks(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy_total(functional.linear(features, weight), targets)


def chunked(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy_total(features, LinearHead.of(features, weight), targets)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"torch": torchs, "blocks": blocks, "chunked": chunked}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def child(way: str, precision: str, vocabulary: int, tokens: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    features = torch.randn(tokens, WIDTH, requires_grad=True)
    weight = torch.randn(vocabulary, WIDTH).mul_(0.02).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))

    def step() -> float:
        features.grad = weight.grad = None
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            total = WAYS[way](features, weight, targets)
        (total / tokens).backward()
        return time.perf_counter() - begin

    before = resident()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"bytes": peak, "seconds": statistics.median(step() for _ in range(TIMED))}))


def measured(way: str, precision: str, vocabulary: int, tokens: int, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, precision, str(vocabulary), str(tokens), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def row(precision: str, vocabulary: int, tokens: int, repeats: int, threads: int) -> str:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            found[way].append(measured(way, precision, vocabulary, tokens, threads))
    median = {
        (way, what): statistics.median(numbers[what] for numbers in found[way])
        for way, what in product(WAYS, ("bytes", "seconds"))
    }
    sizes = [f"{median[way, 'bytes'] / 2**20:,.0f}" for way in WAYS]
    times = [f"{median[way, 'seconds'] / median['torch', 'seconds']:.2f}" for way in ("blocks", "chunked")]
    cells = [f"{vocabulary:,}", f"{tokens:,}", precision, *sizes, f"{median['torch', 'seconds'] * 1e3:.0f}", *times]
    return f"| {' | '.join(cells)} |"


def heads(options: argparse.Namespace) -> None:
    print("\n| vocabulary | tokens | precision | torch MiB | blocks MiB | chunked MiB | torch ms | blocks | chunked |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (vocabulary, tokens), precision in product(SIZES, PRECISIONS):
        print(row(precision, vocabulary, tokens, options.repeats, options.threads), flush=True)


# --- whole training steps

DEMO = {"vocabulary": 2048, "layers": 4, "width": 192, "heads": 3}
LARGER = {"vocabulary": 32768, "layers": 12, "width": 1024, "heads": 8}
CONTEXTS = ((512, "explicit", "bf16"), (2048, "explicit", "bf16"), (2048, "sdpa", "fp32"))
TOKENS = 4096
RECOMPUTED = ("none", "selective", "full")
OFFLOADED = ("none", "moments")


def prepared(model: dict[str, int], context: int, device: str, **plan: object) -> Prepared:
    """A training of a few steps of ``TOKENS`` tokens each, in one micro-batch."""
    torch.manual_seed(0)
    samples = TOKENS // context
    steps = 1 + TIMED
    tokens = torch.randint(model["vocabulary"], (steps * samples, context + 1))
    training = Training(
        model=GPT(**model).build(),
        data=Splits(train=InMemory({"inputs": tokens[:, :-1], "targets": tokens[:, 1:]})),
        objective=NextToken(logits="chunked"),
        optimizer=AdamW(),
        batch=samples,
        budget=Budget(steps=steps),
    )
    alone = Group(0, 1)
    mesh = Mesh(alone, torch.device(device), {"replicate": alone})
    return Prepared(training, Plan(device=mesh.device.type, micro_batch=samples, steps=steps, **plan), mesh)


def steps_child(settings: dict[str, object], threads: int) -> None:
    """Train a few steps by the real loop. On a CPU it is this process's time that counts, whoever else computes."""
    torch.set_num_threads(threads)
    training = prepared(**settings)
    device = training.program.device
    cuda = device.type == "cuda"

    def clock() -> float:
        if not cuda:
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    before = torch.cuda.memory_allocated(device) if cuda else resident()
    ends = [clock() for _ in training.run(None, lambda: False)]
    seconds = statistics.median(end - begin for begin, end in pairwise(ends))
    print(json.dumps({"bytes": peak_bytes(device) - before, "seconds": seconds}))


def steps_measured(settings: dict[str, object], threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--steps-child", json.dumps(settings), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def steps_row(cells: list[str], ways: dict[str, dict[str, object]], options: argparse.Namespace) -> str:
    """Peaks of all ways, seconds of the first, and the times of the others beside it."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, settings in ways.items():
            found[way].append(steps_measured(settings, options.threads))
    sizes = [statistics.median(numbers["bytes"] for numbers in found[way]) for way in ways]
    first, *others = (statistics.median(numbers["seconds"] for numbers in found[way]) for way in ways)
    shown = [f"{size / 2**20:,.0f}" for size in sizes]
    return f"| {' | '.join([*cells, *shown, f'{first * 1e3:.0f}', *(f'{other / first:.2f}' for other in others)])} |"


def checkpointing(options: argparse.Namespace) -> None:
    print("\n| context | attention | precision | none MiB | selective MiB | full MiB | none ms | selective | full |")
    print("|---|---|---|---|---|---|---|---|---|")
    for context, attention, precision in CONTEXTS:
        shared = {"model": DEMO, "context": context, "device": options.device}
        plan = {"attention": attention, "precision": precision}
        ways: dict[str, dict[str, object]] = {way: {**shared, **plan, "recompute": way} for way in RECOMPUTED}
        print(steps_row([f"{context:,}", attention, precision], ways, options), flush=True)


def offload(options: argparse.Namespace) -> None:
    if not options.device.startswith("cuda"):
        print("\noffload: left out, for it needs a CUDA device")
        return
    print("\n| parameters | on the device MiB | in the host's memory MiB | on the device ms | in the host's memory |")
    print("|---|---|---|---|---|")
    shared = {"model": LARGER, "context": 1024, "device": options.device, "precision": "bf16"}
    ways: dict[str, dict[str, object]] = {way: {**shared, "offload": way} for way in OFFLOADED}
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in GPT(**LARGER).build().parameters())
    print(steps_row([f"{parameters:,}"], ways, options), flush=True)


PARTS = {"head": heads, "checkpointing": checkpointing, "offload": offload}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="of checkpointing and offload: cpu or cuda")
    options = parser.parse_args()
    machine = detect()
    print(
        f"{machine.device_name} ({', '.join(machine.features)}), {options.threads} thread(s), torch {torch.__version__}"
    )
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _, _, way, precision, *numbers = sys.argv
        child(way, precision, *map(int, numbers))
    elif sys.argv[1:2] == ["--steps-child"]:
        steps_child(json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
