"""Runs that are killed and resumed: the benchmark of the same name in small, all runs from one warm parent."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
from benchmarks import chaos
from tests.command import invoke

SHORT = chaos.EXACT | {"budget": "{steps: 60}"}


class Thread:
    """A command of this process. It cannot be killed, but all of its workers can."""

    pid = None

    def __init__(self, arguments: list[str]) -> None:
        self._thread = threading.Thread(target=invoke, args=arguments)
        self._thread.start()

    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(chaos.PATIENCE)


def test_runs_that_are_killed_end_in_the_same_bits_and_lose_no_sample(home: Path) -> None:
    job = chaos.Chaos(home / "runs", SHORT, Thread, random.Random(5), chaos.VICTIMS[:2], most_kills=1)
    trials = [job.trial(number) for number in range(5)]
    told = chaos.summary(trials, elastic=False, seconds=job.seconds)
    assert told["exact"] == told["same_sequence"] == told["byte_equal"] == 5
    assert told["samples_lost"] == told["samples_repeated"] == told["largest_loss_difference"] == 0
    assert told["kills"] >= 5 and told["recoveries"] > 0


def test_accounting_finds_what_is_lost_and_repeated() -> None:
    epochs = np.concatenate([np.random.default_rng(epoch).permutation(10) for epoch in range(3)])
    assert chaos.account(epochs, 10) == (0, 0)
    assert chaos.account(epochs[:25], 10) == (0, 0)
    twice, hole = epochs.copy(), epochs.copy()
    twice[3] = twice[4]
    hole[[12, 24]] = -1
    assert chaos.account(twice, 10) == (1, 1)
    assert chaos.account(hole[:25], 10) == (2, 0)
