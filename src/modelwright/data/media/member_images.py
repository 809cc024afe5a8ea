"""Images inside of shards."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import MissingExtra

try:
    from PIL import Image
except ImportError as error:
    raise MissingExtra("images", "images in shards") from error

from modelwright.data.media.image_folder import squared


def decode(data: bytes, size: int, channels: int, resize: str) -> NDArray[np.uint8]:
    """An image as uint8 ``[channels, size, size]``.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            return squared(image, size, channels, resize)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
