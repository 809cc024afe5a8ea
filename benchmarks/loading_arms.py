"""The data and the arms of ``loading.py``: the same samples in batches, read by each library as its pages have it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from modelwright.data.loader import Loader
from modelwright.data.npy import NpyArrays
from modelwright.data.order import Order
from modelwright.data.texts import indexed
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.windows import TokenWindows
from modelwright.runs import Run
from modelwright.runs.sample_log import SampleLog

CONTEXT, VOCABULARY, TOKENS = 1024, 50_000, 100_000_000
IMAGES, IMAGE = 16_384, (3, 64, 64)
ENDLESS = 10**9

Pair = tuple[torch.Tensor, torch.Tensor]
Pairs = Iterator[Pair]


def make(folder: Path, tokens: int = TOKENS, images: int = IMAGES) -> None:
    """Write the data in the form of each library: 200 MB of tokens and as much of images, unless it is there."""
    done = folder / "made.json"
    if done.exists():
        return
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (rng.integers(VOCABULARY, size=min(50_000, tokens - begun)) for begun in range(0, tokens, 50_000))
    indexed.write(folder / "tokens", texts, VOCABULARY)
    np.save(folder / "images.npy", rng.integers(256, size=(images, *IMAGE), dtype=np.uint8))
    np.save(folder / "labels.npy", rng.integers(10, size=images))
    done.write_text(json.dumps({"tokens": tokens, "images": images}))


# --- the loop itself, by hand


def _orders(length: int, batch: int) -> Iterator[np.ndarray]:
    """Indices of one batch after the other, all known beforehand."""
    order = Order(length, seed=0)(np.arange(length))
    return cycle([order[begin : begin + batch] for begin in range(0, length - batch + 1, batch)])


def bare_take(folder: Path, batch: int) -> Pairs:
    """Tokens by ``numpy.take``; inputs and targets are views of one array."""
    tokens = Indexed(folder / "tokens").tokens
    columns = np.arange(CONTEXT + 1)
    for numbers in _orders((len(tokens) - 1) // CONTEXT, batch):
        taken = np.take(tokens, numbers[:, None] * CONTEXT + columns).astype(np.int64)
        yield torch.from_numpy(taken[:, :-1]), torch.from_numpy(taken[:, 1:])


def bare_rows(folder: Path, batch: int) -> Pairs:
    """Tokens as rows of a view of the file; inputs and targets are arrays of their own."""
    rows = _rows(folder)
    for numbers in _orders(len(rows), batch):
        taken = rows[numbers]
        yield tuple(torch.from_numpy(part.astype(np.int64)) for part in (taken[:, :-1], taken[:, 1:]))  # type: ignore[misc]


def bare_images(folder: Path, batch: int) -> Pairs:
    images, labels = _images(folder)
    for numbers in _orders(len(images), batch):
        yield torch.from_numpy(images[numbers]), torch.from_numpy(labels[numbers])


def _rows(folder: Path) -> np.ndarray:
    tokens = np.asarray(Indexed(folder / "tokens").tokens)
    size = tokens.itemsize
    shape = ((len(tokens) - 1) // CONTEXT, CONTEXT + 1)
    return np.ndarray(shape, tokens.dtype, tokens, strides=(CONTEXT * size, size))


def _images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "images.npy", mmap_mode="r").view(np.ndarray), np.load(folder / "labels.npy")


def _flat_images(folder: Path) -> np.ndarray:
    images, _ = _images(folder)
    return images.reshape(len(images), -1)


# --- modelwright


def ours_tokens(folder: Path, batch: int, micro_batch: int = 32, logged: bool = True) -> Pairs:
    return _ours(TokenWindows(Indexed(folder / "tokens"), CONTEXT), batch, micro_batch, logged)


def ours_images(folder: Path, batch: int, micro_batch: int = 32, logged: bool = True) -> Pairs:
    data = NpyArrays(inputs=str(folder / "images.npy"), targets=str(folder / "labels.npy"), held_out=0.0)
    return _ours(data.open(data.prepare(folder / "cache")).train, batch, micro_batch, logged)


def _ours(dataset: Any, batch: int, micro_batch: int, logged: bool) -> Pairs:
    """Each step is written to the sample log before it is handed out, as in a run with ``watch: {samples: true}``."""
    with tempfile.TemporaryDirectory() as place:
        log = SampleLog(Run(Path(place)), 0, "only") if logged else None
        order = Order(len(dataset), seed=0)
        for step in Loader(dataset, order, batch=batch, micro_batch=micro_batch, steps=ENDLESS // batch, note=log):
            for each in step:
                yield each["inputs"], each["targets"]


# --- torch


class Windows(Dataset[Any]):
    """Windows one by one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rows = folder, _rows(folder)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """One window, or those of a list."""
        taken = torch.from_numpy(self._rows[index].astype(np.int64))
        return taken[..., :-1], taken[..., 1:]


class Pictures(Dataset[Any]):
    def __init__(self, folder: Path) -> None:
        self._images, self._labels = _images(folder)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        labels = torch.as_tensor(self._labels[index])
        return torch.from_numpy(np.array(self._images[index])), labels


def torch_loader(kind: type, workers: int, batched: bool, folder: Path, batch: int) -> Pairs:
    """Batched: a sampler gives lists, and the data set reads each at once."""
    dataset = kind(folder)
    more: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if batched:
        lists = BatchSampler(RandomSampler(dataset), batch, drop_last=True)
        return _again(DataLoader(dataset, sampler=lists, batch_size=None, **more))
    return _again(DataLoader(dataset, shuffle=True, batch_size=batch, drop_last=True, **more))


def _again(loader: Iterable[Any]) -> Pairs:
    while True:
        yield from loader


# --- datasets


def hf_tokens(form: str, folder: Path, batch: int) -> Pairs:
    dataset = _hf(folder, "tokens", form)
    for numbers in _orders(len(dataset), batch):
        taken = dataset[numbers]["tokens"]
        taken = taken if form == "torch" else torch.from_numpy(taken.astype(np.int64))
        yield taken[:, :-1], taken[:, 1:]


def hf_images(form: str, folder: Path, batch: int) -> Pairs:
    dataset = _hf(folder, "images", form)
    for numbers in _orders(len(dataset), batch):
        rows = dataset[numbers]
        images, labels = (torch.as_tensor(rows[name]) for name in ("images", "labels"))
        yield images.view(-1, *IMAGE), labels


def _hf(folder: Path, name: str, form: str) -> Any:
    import datasets
    import pyarrow

    place = folder / f"hf-{name}"
    if not place.exists():
        source = _rows(folder) if name == "tokens" else _flat_images(folder)
        columns: dict[str, Any] = {
            name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(source.reshape(-1)), source.shape[1])
        }
        if name == "images":
            columns["labels"] = pyarrow.array(_images(folder)[1])
        datasets.Dataset(pyarrow.table(columns)).save_to_disk(place)
    dtype = {"dtype": torch.int64} if form == "torch" and name == "tokens" else {}
    return datasets.load_from_disk(place).with_format(form, **dtype)


# --- litdata


def _lit_text(folder: str, number: int) -> Iterator[torch.Tensor]:
    tokens = Indexed(Path(folder) / "tokens").tokens
    yield torch.from_numpy(np.array(tokens[number * 1_000_000 : (number + 1) * 1_000_000]))


def _lit_image(folder: str, number: int) -> dict[str, Any]:
    images, labels = _images(Path(folder))
    return {"images": torch.from_numpy(np.array(images[number])), "labels": int(labels[number])}


def lit_tokens(workers: int, folder: Path, batch: int) -> Pairs:
    import litdata

    place = folder / "lit-tokens"
    if not place.exists():
        litdata.optimize(
            fn=partial(_lit_text, str(folder)),
            inputs=list(range(len(Indexed(folder / "tokens").tokens) // 1_000_000)),
            output_dir=str(place),
            chunk_size=(CONTEXT + 1) * 8192,
            item_loader=litdata.TokensLoader(),
            num_workers=1,
        )
    dataset = litdata.StreamingDataset(
        str(place), item_loader=litdata.TokensLoader(block_size=CONTEXT + 1), shuffle=True, drop_last=True
    )
    for taken in _again(litdata.StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)):
        whole = taken.to(torch.int64)  # type: ignore[attr-defined]
        yield whole[:, :-1], whole[:, 1:]


def lit_images(workers: int, folder: Path, batch: int) -> Pairs:
    import litdata

    place = folder / "lit-images"
    if not place.exists():
        litdata.optimize(
            fn=partial(_lit_image, str(folder)),
            inputs=list(range(len(_images(folder)[0]))),
            output_dir=str(place),
            chunk_bytes="64MB",
            num_workers=1,
        )
    dataset = litdata.StreamingDataset(str(place), shuffle=True, drop_last=True)
    for taken in _again(litdata.StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)):
        yield taken["images"], taken["labels"]  # type: ignore[call-overload]


def rivals(samples: type[Any], litdata_arm: Any, datasets_arm: Any) -> dict[str, dict[str, Any]]:
    """Each library at several settings."""
    return {
        "torch DataLoader": {
            f"{'lists' if batched else 'one by one'}, {workers} workers": partial(
                torch_loader, samples, workers, batched
            )
            for batched in (True, False)
            for workers in (0, 1, 2)
        },
        "litdata": {f"{workers} workers": partial(litdata_arm, workers) for workers in (0, 1, 2)},
        "datasets": {f"format {form}, lists": partial(datasets_arm, form) for form in ("torch", "numpy")},
    }


TOKEN_ARMS: dict[str, dict[str, Any]] = {
    "bare gather, rows of a view": {"": bare_rows},
    "bare gather, numpy.take": {"": bare_take},
    "modelwright": {"every step logged": ours_tokens},
    **rivals(Windows, lit_tokens, hf_tokens),
}
IMAGE_ARMS: dict[str, dict[str, Any]] = {
    "bare gather": {"": bare_images},
    "modelwright": {"every step logged": ours_images},
    **rivals(Pictures, lit_images, hf_images),
}
