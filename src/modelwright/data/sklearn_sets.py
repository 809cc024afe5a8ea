"""The small tables that come with scikit-learn: real data without a download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.memory import InMemory, facts_of
from modelwright.data.order import Order

try:
    from sklearn import datasets
except ImportError as error:
    raise MissingExtra("sklearn", "the sklearn data") from error

FORMAT = 1
_LOADERS = {
    "digits": datasets.load_digits,
    "breast-cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}


@dataclass(frozen=True, kw_only=True)
class SklearnSet:
    """One of scikit-learn's bundled sets. Features are float32, standardised with the training part's
    numbers.

    ``diabetes`` has real targets, float32 ``[samples, 1]`` and standardised likewise; the others have
    classes.

    Attributes:
        name: which set.
        images: ``digits`` as images, uint8 ``[batch, 1, 8, 8]`` from 0 to 255, instead of 64 features.
        held_out: random part of the samples to judge by, in (0, 1).
        seed: chooses which samples are held out.
    """

    name: Literal["digits", "breast-cancer", "wine", "iris", "diabetes"] = "digits"
    images: bool = False
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in _LOADERS:
            raise ModelwrightError(
                f"scikit-learn has no set named '{self.name}' here",
                where="name",
                remedy=f"known: {', '.join(_LOADERS)}",
            )
        if self.images and self.name != "digits":
            raise ModelwrightError(
                f"'{self.name}' is a table, not images", where="images", remedy="name: digits, or leave images out"
            )
        if not 0 < self.held_out < 1:
            raise ModelwrightError(f"held_out is {self.held_out}; it is above 0 and below 1", where="held_out")

    def prepare(self, cache: Path) -> Path:
        """Write both parts as ``.npy`` under ``cache``."""
        kind = f"{self.name}-images" if self.images else self.name
        folder = cache / f"sklearn-{kind}-{self.held_out}-{self.seed}-{FORMAT}"
        return build_once(folder, partial(_write, self))

    def open(self, folder: Path) -> Splits:
        """Map the parts that :meth:`prepare` wrote.

        Raises:
            ModelwrightError: a file is missing or damaged.
        """
        facts = read_manifest(folder)["facts"]
        return Splits(_part(folder, "train"), _part(folder, "held_out"), facts)


def _write(chosen: SklearnSet, folder: Path) -> None:
    inputs, targets = _LOADERS[chosen.name](return_X_y=True)
    order = Order(len(inputs), chosen.seed)(np.arange(len(inputs)))
    held = min(max(1, round(len(inputs) * chosen.held_out)), len(inputs) - 1)
    rows = {"held_out": np.sort(order[:held]), "train": np.sort(order[held:])}
    facts = {"channels": 1, "image_size": 8} if chosen.images else {}
    inputs = _pixels(inputs) if chosen.images else _standardised(inputs, rows["train"])
    targets = _targets(targets, rows["train"])
    for part, chosen_rows in rows.items():
        np.save(folder / f"{part}_inputs.npy", inputs[chosen_rows])
        np.save(folder / f"{part}_targets.npy", targets[chosen_rows])
    write_manifest(folder, {"facts": facts | facts_of(inputs, targets)})


def _pixels(inputs: NDArray[Any]) -> NDArray[np.uint8]:
    """Images of 17 greys, 0 to 16, in all 256."""
    return np.rint(inputs * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)


def _targets(targets: NDArray[Any], train: NDArray[np.int64]) -> NDArray[Any]:
    if np.issubdtype(targets.dtype, np.integer):
        return targets.astype(np.int64)
    return _standardised(targets[:, None], train)


def _standardised(values: NDArray[Any], train: NDArray[np.int64]) -> NDArray[np.float32]:
    spread = values[train].std(axis=0)
    centred = values - values[train].mean(axis=0)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0), dtype=np.float32)


def _part(folder: Path, part: str) -> InMemory:
    names = ("inputs", "targets")
    return InMemory({name: np.load(folder / f"{part}_{name}.npy", mmap_mode="r") for name in names})
