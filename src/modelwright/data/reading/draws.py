"""Whether a data set draws from random generators that everyone shares: then its samples depend on who drew before."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from modelwright.base.events import emit
from modelwright.data.reading.share import Loaded, Share

_GENERATORS: dict[str, Callable[[], bytes]] = {
    "torch": lambda: torch.default_generator.get_state().numpy().tobytes(),
    "numpy.random": lambda: pickle.dumps(np.random.get_state(legacy=False)),
    "random": lambda: pickle.dumps(random.getstate()),
}


def read_watched(share: Share, tell: bool) -> Loaded:
    """Step 0, read where nothing else draws, and a warning where reading it drew.

    Libraries draw from Python's and NumPy's generators for reasons of their own, such as waiting before they ask a
    server again: these count only where the same samples, read once more, are others. Torch's count always, as the
    model's dropout draws from it at the same time.

    Args:
        share: what to read.
        tell: whether to look at all.
    """
    before = _states() if tell else {}
    (loaded,) = share.read(0)
    drew = [name for name, state in before.items() if state != _GENERATORS[name]()]
    if drew and ("torch" in drew or not _same(loaded, share.read(0)[0])):
        listed = " and ".join(drew)
        emit(
            "data-draws",
            f"{type(share.dataset).__name__} draws from the global generator of {listed} when samples are read: they "
            "depend on how far reading is ahead, so a resumed run, another number of workers or the same run again "
            "do not train on exactly the same; draw from a generator that is seeded by the sample's index, such as "
            "numpy.random.default_rng((seed, index))",
            level="warning",
            generators=drew,
        )
    return loaded


def _states() -> dict[str, bytes]:
    return {name: state() for name, state in _GENERATORS.items()}


def _same(one: Loaded, other: Loaded) -> bool:
    return all(
        mine.keys() == theirs.keys() and all(_equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in zip(one.batches, other.batches, strict=True)
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
