"""Tokens per second of one forward and backward of the demo's model: attention kernel x precision x context.

    python benchmarks/attention_kernels.py [--threads 1] [--repeats 5]

The four combinations alternate within each repeat; medians, the ratio to sdpa in fp32 first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import product

import torch

from modelwright.base.detect import detect
from modelwright.models.attention import set_attention
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.program import LocalProgram

TOKENS = 2048


def seconds(program: LocalProgram, batch: dict[str, torch.Tensor]) -> float:
    counts = program.counts([batch])
    before = time.perf_counter()
    program.forward_backward([batch], counts)
    taken = time.perf_counter() - before
    program.model.zero_grad(set_to_none=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = detect()
    print(
        f"{machine.device_name} ({', '.join(machine.features)}), {options.threads} thread(s), torch {torch.__version__}"
    )
    model = GPT(vocabulary=2048, layers=4, width=192, heads=3).build()
    programs = {
        precision: LocalProgram(model, NextToken(), device=torch.device("cpu"), precision=precision)
        for precision in ("fp32", "bf16")
    }
    for context in (64, 128, 256, 512):
        tokens = torch.randint(2048, (TOKENS // context, context + 1))
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        taken: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.repeats + 1):
            for kernel, precision in product(("sdpa", "explicit"), programs):
                set_attention(model, kernel)
                taken.setdefault((kernel, precision), []).append(seconds(programs[precision], batch))
        medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
        base = medians["sdpa", "fp32"]
        for (kernel, precision), median in medians.items():
            print(f"context {context:4}  {base / median:5.2f} x  {TOKENS / median:8.0f} tokens/s  {kernel} {precision}")


if __name__ == "__main__":
    main()
