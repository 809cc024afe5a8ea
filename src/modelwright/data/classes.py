"""Classes of new samples: what an encoder of labelled texts, images or sounds makes of a model's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def names_of(outputs: Tensor, classes: tuple[str, ...]) -> list[Any]:
    """Names of the likeliest classes of ``outputs [samples, classes]``; numbers of those that have none."""
    numbers: list[int] = outputs.detach().argmax(-1).tolist()
    return [classes[number] if number < len(classes) else number for number in numbers]
