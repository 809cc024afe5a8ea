"""What a member of a shard holds, by its ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError

IMAGES = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff"})
_DECODERS = Family("member", {"image": "modelwright.data.media.member_images:decode"})


def decode(ending: str, data: bytes, place: str, images: Mapping[str, Any] | None = None) -> Any:
    """The value of a member: a text of ``txt``, an integer of ``cls``, JSON, an array of ``npy``, an image.

    Args:
        ending: what follows the key; the part after its last dot counts.
        data: the member's bytes.
        place: the member, for messages.
        images: ``size``, ``channels`` and ``resize`` of images; without, they stay bytes, as other kinds do.

    Raises:
        ModelwrightError: the bytes are not of their kind.
    """
    kind = kind_of(ending)
    try:
        if kind == "image":
            return _DECODERS.resolve("image")(data, **images) if images is not None else data
        return _PLAIN[kind](data) if kind in _PLAIN else data
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise ModelwrightError(
            f"a member is no {ending}: {error}", where=place, remedy="write the shard again without it"
        ) from error


def kind_of(ending: str) -> str:
    """``image``, ``npy``, ``json``, ``txt``, ``cls``, or the last part of the ending itself."""
    last = ending.rpartition(".")[2]
    return "image" if last in IMAGES else last


def _npy(data: bytes) -> Any:
    return np.load(BytesIO(data), allow_pickle=False)


def _text(data: bytes) -> str:
    return data.decode("utf-8")


_PLAIN: dict[str, Callable[[bytes], Any]] = {
    "npy": _npy,
    "json": json.loads,
    "txt": _text,
    "cls": lambda data: int(_text(data)),
}
