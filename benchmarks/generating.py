"""Tokens per second of text from the demo's model, with the cache and without: prompts at once x context.

    python benchmarks/generating.py [--threads 1] [--repeats 3]

The arms alternate within each repeat; medians of process time, for machines that are shared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from modelwright.base.detect import detect
from modelwright.models.gpt import GPT, GPTModule
from modelwright.models.writing.drawing import Sampling
from modelwright.models.writing.reading import Anew, reader_of
from modelwright.models.writing.sampling import Continuation, continue_texts

PROMPT = list(range(1, 9))


def tokens_per_second(model: GPTModule, rows: int, context: int, *, cached: bool) -> float:
    """From a short prompt until the context is full."""
    reader = reader_of(model, context) if cached else Anew(model)
    texts = [Continuation(PROMPT, number) for number in range(rows)]
    sampling = Sampling(length=context - len(PROMPT), top_k=50)
    before = time.process_time()
    made = sum(1 for _ in continue_texts(model, texts, sampling, context=context, reader=reader))
    return made / (time.process_time() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = detect()
    print(f"{machine.device_name}, {options.threads} thread(s), torch {torch.__version__}")
    torch.manual_seed(0)
    model = GPT(vocabulary=2048, layers=4, width=192, heads=3).build()
    tokens_per_second(model, 1, 64, cached=True)
    for context in (128, 512):
        for rows in (1, 8):
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.repeats):
                for cached, rates in taken.items():
                    rates.append(tokens_per_second(model, rows, context, cached=cached))
            anew, cached_rate = (statistics.median(taken[cached]) for cached in (False, True))
            print(
                f"context {context:4}, {rows} at once: anew {anew:6.0f}, with cache {cached_rate:6.0f} tokens/s, "
                f"{cached_rate / anew:.1f} x"
            )


if __name__ == "__main__":
    main()
