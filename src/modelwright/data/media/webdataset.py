"""Samples in local tar shards, read where they lie through an index of their places."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.files import read_json, speaking, write_json
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.media.file_encoder import FileEncoder
from modelwright.data.media.members import IMAGES, decode, kind_of
from modelwright.data.media.shard_targets import named_targets
from modelwright.data.media.tar_shards import Member, Sample, data_of, name_at, samples
from modelwright.data.tables.records import find_files
from modelwright.data.texts.documents import held_out_names

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

FORMAT = 1
_FILE = "shards.json"
_INPUT_KINDS = ("image", "npy", "json")
_TARGET_KINDS = ("cls", "txt", "json", "npy")
Shape = tuple[list[int], str]  # and type
_COLUMNS = 4  # shard, offset, size, which of ``inputs``


@dataclass(frozen=True, kw_only=True)
class WebDataset:
    """Samples in tar shards, as the ``webdataset`` package writes them: ``0001.png``, ``0001.cls``, ``0002.png``, ...

    An index is made once; samples are then read at random from the shards, which must stay where they are.
    Images become uint8 ``[batch, channels, size, size]``; arrays (``npy``) and lists of numbers (``json``) of one
    shape become float32, or int64 where they are integers.

    Attributes:
        files: patterns of shards, such as ``shards/*.tar``.
        inputs: endings of the members to learn from; of a sample the first that it has.
        targets: ending of the member to be learnt: ``cls`` (a class's number), ``txt`` (its name), ``json`` or
            ``npy`` (either, or numbers).
        size: height and width of images, in pixels.
        channels: 3 for red, green and blue; 1 for grey.
        resize: how an image that is not square becomes so: ``crop``, ``pad`` or ``stretch``.
        held_out: part of the samples to judge by, in [0, 1); each is decided by a hash of its key. ``None``: a
            tenth, or what ``held_out_files`` holds.
        held_out_files: patterns of shards to judge by.
        root: the folder that patterns start from.
        seed: chooses which samples are held out.
    """

    files: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: str = "cls"
    size: int = 64
    channels: Literal[1, 3] = 3
    resize: Literal["crop", "pad", "stretch"] = "crop"
    held_out: float | None = None
    held_out_files: tuple[str, ...] = ()
    root: str = "."
    seed: int = 0

    def __post_init__(self) -> None:
        for field, endings, kinds in (
            ("inputs", self.inputs, _INPUT_KINDS),
            ("targets", (self.targets,), _TARGET_KINDS),
        ):
            for ending in endings:
                _check_kind(field, ending, kinds)
        if not self.files or not self.inputs:
            field = "inputs" if self.files else "files"
            raise ModelwrightError(f"no {field} are named", where=field, remedy="files: ['*.tar'], inputs: [png]")
        if len({kind_of(ending) for ending in self.inputs}) > 1:
            raise ModelwrightError("inputs are of several kinds", where="inputs", remedy="name images, or arrays")
        if self.size < 1:
            raise ModelwrightError(f"images of {self.size} pixels are none", where="size")
        if self.channels not in (1, 3) or self.resize not in ("crop", "pad", "stretch"):
            field = "channels" if self.channels not in (1, 3) else "resize"
            raise ModelwrightError(f"{field} is {getattr(self, field)!r}", where=field, remedy="1 or 3; crop or pad")
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise ModelwrightError(f"held_out is {self.held_out}; it is at least 0, below 1", where="held_out")
        if self.held_out is not None and self.held_out_files:
            raise ModelwrightError(
                "held-out data is given twice: as a part and as files",
                where="held_out",
                remedy="keep held_out or held_out_files",
            )

    def prepare(self, cache: Path) -> Path:
        """Write an index of the shards under ``cache``, unless that was done; returns its folder.

        Raises:
            ModelwrightError: a shard is damaged, or a sample lacks a member or differs in shape.
        """
        settings = vars(self) | {"format": FORMAT, "shards": self._stamps(self._shards())}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return build_once(cache / f"shards-{key[:16]}", partial(self._build, self._shards()))

    def open(self, folder: Path) -> Splits:
        """Map the index; samples are read from the shards when they are asked for.

        Raises:
            ModelwrightError: the index is damaged, or a shard changed since.
        """
        facts = read_manifest(folder)["facts"]
        noted = read_json(folder / _FILE)
        shards = [Path(path) for path, *_ in noted["shards"]]
        if noted["shards"] != self._stamps(shards):
            raise ModelwrightError("a shard changed since it was indexed", where=str(shards[0]), remedy="start again")
        index, targets = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("index", "targets"))
        parts = {
            part: ShardSamples(self, shards, index, targets, np.load(folder / f"{part}.npy"), noted["shape"])
            for part in ("train", "held_out")
        }
        held_out = parts["held_out"] if len(parts["held_out"]) else None
        classes = tuple(noted["class_names"])
        return Splits(parts["train"], held_out, facts, encoder=self._encoder(facts, classes), classes=classes)

    def _encoder(self, facts: Mapping[str, int], classes: tuple[str, ...]) -> FileEncoder | None:
        """Reads new images, where they are what has classes."""
        if kind_of(self.inputs[0]) != "image" or "classes" not in facts:
            return None
        read = partial(_image_in, self)
        return FileEncoder(read, frozenset(f".{ending}" for ending in IMAGES), classes)

    def input_of(self, ending: str, data: bytes, place: str) -> NDArray[Any]:
        """One sample's input from its bytes.

        Raises:
            ModelwrightError: it cannot be decoded.
        """
        images = {"size": self.size, "channels": self.channels, "resize": self.resize}
        value = decode(ending, data, place, images)
        return value if kind_of(ending) == "image" else _array(value, place)

    def _shards(self) -> list[Path]:
        train, held_out = self._train_shards(), []
        if self.held_out_files:
            held_out = find_files(self.held_out_files, "held_out_files", self.root)
        if both := set(train) & set(held_out):
            raise ModelwrightError(
                "a shard is to be learnt from and judged by",
                where=str(min(both)),
                remedy="narrow the patterns of files or held_out_files",
            )
        return train + held_out

    def _train_shards(self) -> list[Path]:
        return find_files(self.files, "files", self.root)

    def _stamps(self, shards: list[Path]) -> list[list[Any]]:
        """What tells one state of the shards from another, without reading them."""
        missing = [path for path in shards if not path.is_file()]
        if missing:
            raise ModelwrightError("a shard is gone", where=str(missing[0]), remedy="put it back, or start again")
        found = [(path.resolve(), path.stat()) for path in shards]
        return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]

    def _build(self, shards: list[Path], folder: Path) -> None:
        numbers, keys, values = array("q"), list[str](), list[Any]()
        shape: Shape | None = None
        images = kind_of(self.inputs[0]) == "image"  # one is looked at: all are made to be alike
        stamps = self._stamps(shards)
        for shard, file, (key, members) in _all_samples(shards):
            which, member = self._input(shards[shard], key, members)
            if shape is None or not images:
                place = f"{shards[shard]}:{member.name}"
                value = self.input_of(self.inputs[which], data_of(file, member), place)
                shape = _same(shape, (list(value.shape), str(value.dtype)), place)
            numbers.extend((shard, member.offset, member.size, which))
            keys.append(key)
            values.append(self._target(shards[shard], file, key, members))
        if not keys or shape is None:
            raise ModelwrightError("the shards hold no samples", where=str(shards[0]), remedy="choose other files")
        targets, classes = named_targets(values, self.targets)
        held = self._held(np.array(numbers[::_COLUMNS]), keys)
        np.save(folder / "index.npy", np.array(numbers, dtype=np.int64).reshape(-1, _COLUMNS))
        np.save(folder / "targets.npy", targets)
        np.save(folder / "train.npy", np.flatnonzero(~held))
        np.save(folder / "held_out.npy", np.flatnonzero(held))
        write_json(folder / _FILE, {"shards": stamps, "shape": shape, "class_names": classes})
        write_manifest(folder, {"facts": _facts(shape, targets, classes)})
        told = {"train": int((~held).sum()), "held_out": int(held.sum())}
        events.emit("data-prepared", f"{len(keys)} samples of {len(shards)} shards are indexed", samples=told)

    def _held(self, shards: NDArray[Any], keys: list[str]) -> NDArray[np.bool_]:
        if self.held_out_files:
            return np.asarray(shards >= len(self._train_shards()))
        names = held_out_names(sorted(set(keys)), 0.1 if self.held_out is None else self.held_out, self.seed)
        return np.array([key in names for key in keys])

    def _input(self, path: Path, key: str, members: dict[str, Member]) -> tuple[int, Member]:
        for which, ending in enumerate(self.inputs):
            if ending in members:
                return which, members[ending]
        raise _lacks(path, (key, members), " or ".join(self.inputs), "inputs")

    def _target(self, path: Path, file: Any, key: str, members: dict[str, Member]) -> Any:
        if self.targets not in members:
            raise _lacks(path, (key, members), self.targets, "targets")
        member = members[self.targets]
        return decode(self.targets, data_of(file, member), f"{path}:{member.name}")


class ShardSamples:
    """Samples at chosen rows of an index."""

    alike: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    def __init__(
        self, technique: WebDataset, shards: list[Path], index: Any, targets: Any, rows: Any, shape: Any
    ) -> None:
        self._technique, self._shards = technique, shards
        self._index, self._targets, self._rows = index, targets, rows
        self._shape, self._maps = (shape[0], shape[1]), dict[int, Any]()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, positions: Positions) -> Batch:
        """Samples at ``positions``, decoded: ``inputs`` and ``targets``, samples first."""
        rows = self._rows[np.asarray(positions, dtype=np.int64)]
        inputs = list(self._inputs(rows))
        stacked = np.stack(inputs) if inputs else np.empty((0, *self._shape[0]), self._shape[1])
        targets = np.ascontiguousarray(self._targets[rows])
        return {"inputs": torch.from_numpy(stacked), "targets": torch.from_numpy(targets)}

    def _inputs(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        for shard, offset, size, which in self._index[rows].tolist():
            data = self._map(shard)[offset : offset + size].tobytes()
            ending = self._technique.inputs[which]
            try:
                yield self._technique.input_of(ending, data, "")
            except ModelwrightError as error:
                path = self._shards[shard]
                place = f"{path}:{name_at(path, offset)}"
                raise ModelwrightError(error.what, where=place, remedy=error.remedy) from error

    def _map(self, shard: int) -> Any:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._shards[shard], np.uint8, "r")
        return self._maps[shard]


def _image_in(source: WebDataset, path: Path) -> NDArray[Any]:
    with speaking(path):
        return source.input_of(path.suffix.lower(), path.read_bytes(), str(path))


def _array(value: Any, place: str) -> NDArray[Any]:
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "biuf" or found.ndim == 0:
        raise ModelwrightError("a sample is no array of numbers", where=place, remedy="write arrays or lists of them")
    if found.dtype == np.uint8:
        return found
    return found.astype(np.float32 if found.dtype.kind == "f" else np.int64)


def _facts(shape: Shape, targets: NDArray[Any], classes: list[str]) -> dict[str, int]:
    facts: dict[str, int] = {}
    dims, kind = shape
    if kind == "float32":
        facts["features"] = int(np.prod(dims))
    if kind == "uint8" and len(dims) == 3 and dims[1] == dims[2]:
        facts |= {"channels": dims[0], "image_size": dims[1]}
    if targets.dtype.kind == "i":
        facts["classes"] = len(classes) or int(targets.max()) + 1
    else:
        facts["classes"] = int(np.prod(targets.shape[1:]))
    return facts


def _check_kind(field: str, ending: str, kinds: tuple[str, ...]) -> None:
    if ending.startswith(".") or kind_of(ending) not in kinds:
        raise ModelwrightError(
            f"'{ending}' is no ending of {field}",
            where=field,
            remedy=f"write png, jpg, {', '.join(kinds[1:])}" if "image" in kinds else f"write {', '.join(kinds)}",
        )


def _lacks(path: Path, sample: Sample, ending: str, field: str) -> ModelwrightError:
    key, members = sample
    return ModelwrightError(
        f"sample '{key}' has no member {ending}; {nearest(ending, members)}",
        where=f"{path}:{key}",
        remedy=f"set {field} to an ending that every sample has, or write the shard again",
    )


def _all_samples(shards: list[Path]) -> Iterator[tuple[int, Any, Sample]]:
    """The number of a shard, the open shard, and a sample of it."""
    for shard, path in enumerate(shards):
        with path.open("rb") as file:
            for sample in samples(path):
                yield shard, file, sample


def _same(shape: Shape | None, found: Shape, place: str) -> Shape:
    if shape is not None and found != shape:
        raise ModelwrightError(
            f"samples differ: {shape[0]} of {shape[1]} before, {found[0]} of {found[1]} here",
            where=place,
            remedy="pad or cut the samples to one shape and type",
        )
    return found
