"""The contract of data techniques."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from modelwright.base.choice import Family
from modelwright.data import DATA, Dataset, DataTechnique, Splits
from modelwright.data.batches import read
from modelwright.testing.contract import Contract

if TYPE_CHECKING:
    from modelwright.data import Batch

_READ_AT_ONCE = 1024
_TOKENS = {"inputs", "decoder_inputs", "targets", "chosen", "chosen_targets", "rejected", "rejected_targets"}
_MOST_SHARED = 0.1  # real tables hold a few equal rows


class DataContract(Contract):
    """Data is prepared once, everywhere alike, and what is judged by is not learnt from.

    Techniques must be importable by name, as recipes name them: one test runs them in a fresh process.
    """

    family: ClassVar[Family] = DATA

    def test_preparing_again_changes_nothing(self, technique: DataTechnique, tmp_path: Path) -> None:
        """Preparing again changes nothing; preparing elsewhere gives the same bytes."""
        folder = technique.prepare(tmp_path / "here")
        before = digest(folder)
        assert technique.prepare(tmp_path / "here") == folder, "a second prepare chose another folder"
        assert digest(folder) == before, "a second prepare altered the files"
        elsewhere = technique.prepare(tmp_path / "elsewhere")
        assert digest(elsewhere) == before, "another cache holds other bytes"

    def test_other_processes_see_the_same(self, technique: DataTechnique, tmp_path: Path) -> None:
        """A fresh interpreter, with another hash seed, prepares the same bytes and reads the same samples."""
        mine = prepared_digest(technique, tmp_path / "mine")
        theirs = _elsewhere(technique, tmp_path / "theirs")
        assert mine == theirs, "another process prepared or read something else"

    def test_technique_travels(self, technique: DataTechnique, tmp_path: Path) -> None:
        """The technique travels to worker processes."""
        assert pickle.loads(pickle.dumps(technique)) == technique, "the technique changed on the way"  # noqa: S301

    def test_there_is_something_to_learn_from(self, technique: DataTechnique, tmp_path: Path) -> None:
        """There is something to learn from, and something to judge by where that is promised."""
        splits = _open(technique, tmp_path)
        assert len(splits.train) > 0, "the training data is empty"
        assert splits.held_out is None or len(splits.held_out) > 0, "held-out data is there and empty"

    def test_batches_agree(self, technique: DataTechnique, tmp_path: Path) -> None:
        """Batches are dicts of tensors, samples first, of the same names and types wherever they are read."""
        for dataset in _parts(_open(technique, tmp_path)):
            last = len(dataset) - 1
            kinds = _kinds(read(dataset, [0]))
            for positions in ([last], [last, 0], np.array([0, last, 0])):
                batch = read(dataset, positions)
                assert _kinds(batch) == kinds, f"batches differ: {kinds} and {_kinds(batch)}"
                for name, tensor in batch.items():
                    assert len(tensor) == len(positions), f"'{name}' has {len(tensor)} of {len(positions)} samples"
                    single = read(dataset, [int(positions[0])])[name][0]
                    assert torch.equal(tensor[0], single), f"'{name}' depends on the batch it is read in"

    def test_facts_hold(self, technique: DataTechnique, tmp_path: Path) -> None:
        """Facts are positive integers, and the samples agree with them."""
        splits = _open(technique, tmp_path)
        for name, value in splits.facts.items():
            assert type(value) is int and value > 0, f"the fact {name} is {value!r}"
        for dataset in _parts(splits):
            batch = read(dataset, np.arange(min(len(dataset), _READ_AT_ONCE)))
            if "vocabulary" in splits.facts:
                for name in _TOKENS & batch.keys():
                    assert int(batch[name].max()) < splits.facts["vocabulary"], f"{name} are not in the vocabulary"
            if "image_size" in splits.facts:
                size = splits.facts["image_size"]
                shape = [splits.facts["channels"], size, size]
                assert list(batch["inputs"].shape[1:]) == shape, "images differ from the facts"
            if "classes" in splits.facts and not batch["targets"].is_floating_point() and batch["targets"].ndim == 1:
                assert int(batch["targets"].max()) < splits.facts["classes"], "a target is no class"
            if "features" in splits.facts:
                assert batch["inputs"][0].numel() == splits.facts["features"], "features differ from the fact"

    def test_held_out_is_not_learnt_from(self, technique: DataTechnique, tmp_path: Path) -> None:
        """What is judged by is not learnt from."""
        splits = _open(technique, tmp_path)
        if splits.held_out is None:
            return
        train, held_out = set(_sample_hashes(splits.train)), list(_sample_hashes(splits.held_out))
        shared = sum(sample in train for sample in held_out) / len(held_out)
        assert shared <= _MOST_SHARED, f"{shared:.0%} of the held-out samples are in the training data"
        if splits.tokenizer is not None and splits.documents is not None:
            learnt = b"".join(splits.tokenizer.decode(row.reshape(-1).tolist()) for row in _inputs(splits.train))
            for name, text in splits.documents:
                assert len(text) < 100 or text not in learnt, f"the held-out {name} is in the training data"

    def test_every_held_out_byte_is_scored_once(self, technique: DataTechnique, tmp_path: Path) -> None:
        """Held-out windows score each byte of the held-out documents once."""
        splits = _open(technique, tmp_path)
        if splits.held_out is None or splits.tokenizer is None or splits.documents is None:
            return
        names = [name for name, _ in splits.documents]
        assert len(names) == len(splits.documents) == len(set(names)), "documents share names"
        scored = sum(int(batch["bytes"].sum()) for batch in _batches(splits.held_out))
        total = sum(len(text) for _, text in splits.documents)
        assert scored == total, f"{scored} bytes are scored of {total}"


def digest(folder: Path) -> str:
    """One hash over the names and contents of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def prepared_digest(technique: DataTechnique, cache: Path) -> str:
    """One hash over what is prepared, and over a few samples of it."""
    folder = technique.prepare(cache)
    total = hashlib.sha256(digest(folder).encode())
    for dataset in _parts(technique.open(folder)):
        for sample in _hashes(read(dataset, np.arange(min(len(dataset), 32)))):
            total.update(sample)
    return total.hexdigest()


def _elsewhere(technique: DataTechnique, cache: Path) -> str:
    """:func:`prepared_digest` in a process forked from a server that was started anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(prepared_digest, technique, cache).result()


def _open(technique: DataTechnique, cache: Path) -> Splits:
    return technique.open(technique.prepare(cache))


def _parts(splits: Splits) -> list[Dataset]:
    return [splits.train] if splits.held_out is None else [splits.train, splits.held_out]


def _kinds(batch: Batch) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in batch.items()}


def _batches(dataset: Dataset) -> Iterator[Batch]:
    for start in range(0, len(dataset), _READ_AT_ONCE):
        yield read(dataset, np.arange(start, min(start + _READ_AT_ONCE, len(dataset))))


def _inputs(dataset: Dataset) -> Iterator[torch.Tensor]:
    for batch in _batches(dataset):
        yield batch["inputs"]


def _sample_hashes(dataset: Dataset) -> Iterator[bytes]:
    for batch in _batches(dataset):
        yield from _hashes(batch)


def _hashes(batch: Batch) -> Iterator[bytes]:
    arrays = [batch[name].numpy() for name in sorted(batch)]
    for row in range(len(arrays[0])):
        yield hashlib.sha256(b"\0".join(array[row].tobytes() for array in arrays)).digest()
