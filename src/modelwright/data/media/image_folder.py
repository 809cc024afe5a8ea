"""Images in a folder for each class, decoded once into one array of bytes."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.media.class_folders import Labelled, classes_of, files_key
from modelwright.data.media.file_encoder import FileEncoder
from modelwright.data.media.sample_files import (
    check_choice,
    check_held_out_once,
    copies,
    corrupt_file,
    folder_parts,
    in_order,
    mapped,
    tell,
    write_samples,
)
from modelwright.data.sequences.rows import check_part

try:
    import PIL
    from PIL import Image, ImageOps
except ImportError as error:
    raise MissingExtra("images", "the image-folder data") from error

FORMAT = 1
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FILTER = Image.Resampling.BILINEAR
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images as ``FOLDER/CLASS/*.png``, ``.jpg`` and other kinds; classes are numbered in the order of their names.

    ``inputs`` are uint8 ``[batch, channels, size, size]``, ``targets`` int64 ``[batch]``.

    Attributes:
        folder: holds a folder for each class.
        size: height and width of the samples, in pixels.
        channels: 3 for red, green and blue; 1 for grey.
        resize: how an image that is not square becomes so: ``crop`` keeps its middle, ``pad`` adds black, ``stretch``
            distorts it.
        held_out: part of each class to judge by, in [0, 1). Each image is decided by a hash of its name. ``None``: a
            tenth, or what ``held_out_folder`` holds.
        held_out_folder: holds images to judge by, in folders of the same names.
        corrupt: what an image that cannot be read does: ``stop`` ends with its name, ``skip`` leaves it out and tells.
        threads: that decode; ``None``: as many as there are cores, up to 8. The result is the same.
        seed: chooses which images are held out.
    """

    folder: str
    size: int = 64
    channels: Literal[1, 3] = 3
    resize: Literal["crop", "pad", "stretch"] = "crop"
    held_out: float | None = None
    held_out_folder: str | None = None
    corrupt: Literal["stop", "skip"] = "stop"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_part(self.held_out or 0.0)
        check_choice("channels", self.channels, (1, 3))
        check_choice("resize", self.resize, ("crop", "pad", "stretch"))
        check_choice("corrupt", self.corrupt, ("stop", "skip"))
        if self.size < 1 or (self.threads is not None and self.threads < 1):
            name = "size" if self.size < 1 else "threads"
            raise ModelwrightError(f"{name} is {getattr(self, name)}", where=name, remedy=f"{name}: 1 or more")
        check_held_out_once(self.held_out, self.held_out_folder)

    def prepare(self, cache: Path) -> Path:
        """Decode the images, unless that was done; returns the folder of the arrays.

        Raises:
            ModelwrightError: no images, one of them cannot be read, or the disk is full.
        """
        parts = folder_parts(self.folder, self.held_out_folder, self.held_out, self.seed, _ENDINGS)
        classes = classes_of(parts, "held_out_folder")
        settings = {"format": FORMAT, "pillow": PIL.__version__, "files": files_key(parts), "corrupt": self.corrupt}
        settings |= {"size": self.size, "channels": self.channels, "resize": self.resize}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        folder = build_once(cache / f"images-{key[:16]}", partial(self._build, parts, classes))
        tell(read_manifest(folder))
        return folder

    def open(self, folder: Path) -> Splits:
        """Map the arrays.

        Raises:
            ModelwrightError: a file is missing or damaged.
        """
        manifest = read_manifest(folder)
        shape = (self.channels, self.size, self.size)
        datasets = {part: mapped(folder, part, np.uint8, shape) for part in manifest["samples"]}
        classes = tuple(manifest["classes"])
        return Splits(
            datasets["train"],
            datasets.get("held_out"),
            manifest["facts"],
            encoder=FileEncoder(self.read, _ENDINGS, classes),
            classes=classes,
        )

    def read(self, path: Path) -> NDArray[np.uint8]:
        """One image as a sample.

        Raises:
            ModelwrightError: it cannot be read.
        """
        try:
            with Image.open(path) as image:
                return squared(image, self.size, self.channels, self.resize)
        except _UNREADABLE as error:
            raise corrupt_file("image", path, error) from error

    def _build(self, parts: dict[str, list[Labelled]], classes: list[str], folder: Path) -> None:
        started = time.perf_counter()
        skipped: list[str] = []
        counts = {part: self._write(folder, part, files, classes, skipped) for part, files in parts.items()}
        facts = {"channels": self.channels, "image_size": self.size, "classes": len(classes)}
        told = {"skipped": skipped, "copies": copies(folder, counts)}
        write_manifest(folder, {"facts": facts, "classes": classes, "samples": counts, **told})
        seconds = time.perf_counter() - started
        events.emit("data-prepared", f"{sum(counts.values())} images in {seconds:.3g} s", samples=counts)

    def _write(self, folder: Path, part: str, files: list[Labelled], classes: list[str], skipped: list[str]) -> int:
        decoded = in_order(self._decoded, files, self.threads)
        return write_samples(folder, part, decoded, classes, skipped)

    def _decoded(self, file: Labelled) -> NDArray[np.uint8] | None:
        try:
            return self.read(file.path)
        except ModelwrightError:
            if self.corrupt == "skip":
                return None
            raise


def squared(image: Image.Image, size: int, channels: int, resize: str) -> NDArray[np.uint8]:
    """An image as uint8 ``[channels, size, size]``, turned as its camera was held.

    Args:
        image: of any mode.
        size: height and width, in pixels.
        channels: 1 or 3.
        resize: ``crop``, ``pad`` or ``stretch``.
    """
    upright = _plain(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
    if resize == "crop":
        square = ImageOps.fit(upright, (size, size), _FILTER)
    elif resize == "pad":
        square = ImageOps.pad(upright, (size, size), _FILTER)
    else:
        square = upright.resize((size, size), _FILTER)
    pixels = np.asarray(square, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in grey or colours: 16 bits become 8, and what is transparent black."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no scale that is known")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(mode)
