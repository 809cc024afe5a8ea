"""What models of images share: the numbers they read, and their checks."""

from __future__ import annotations

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError


def as_numbers(images: Tensor, like: Tensor) -> Tensor:
    """Images in the dtype of the weights ``like``: uint8 is divided by 255, floats keep their values."""
    if images.dtype == torch.uint8:
        return images.to(like.dtype).div_(255)
    return images.to(like.dtype)


def check_channels(model: str, images: Tensor, channels: int) -> None:
    """Refuse what is no ``[batch, channels, height, width]``.

    Raises:
        ModelwrightError: another number of dims or channels.
    """
    if images.dim() != 4 or images.size(1) != channels:
        raise ModelwrightError(
            f"{model}: the images have shape {list(images.shape)}, and the model reads "
            f"[batch, {channels}, height, width]",
            remedy=_channels_remedy(images, channels),
        )


def _channels_remedy(images: Tensor, channels: int) -> str:
    if images.dim() == 4 and images.size(-1) == channels:
        return "put the channels before height and width"
    if images.dim() == 4:
        return f"set model.channels to {images.size(1)}"
    return "give each image three dims: channels, height, width"
