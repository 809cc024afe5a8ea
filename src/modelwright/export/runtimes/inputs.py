"""What every runtime asks of its inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.export.signature import Signature, Slot


def inputs_of(signature: Signature, batch: Mapping[str, Tensor], where: str) -> list[Tensor]:
    """The inputs in the order of the file.

    Raises:
        ModelwrightError: one is missing, or of another type or size; or two differ in a size that they share.
    """
    found: list[Tensor] = []
    sizes: dict[str, tuple[int, str]] = {}
    for slot in signature.inputs:
        if slot.name not in batch:
            raise ModelwrightError(
                f"the file needs the input '{slot.name}'", where=where, remedy=nearest(slot.name, batch)
            )
        slot.check(batch[slot.name], where)
        _check_largest(slot, batch[slot.name], signature, where)
        _check_shared(slot, batch[slot.name], sizes, where)
        found.append(batch[slot.name])
    return found


def _check_largest(slot: Slot, tensor: Tensor, signature: Signature, where: str) -> None:
    for name, size in zip(slot.shape, tensor.shape, strict=True):
        if isinstance(name, str) and size > signature.largest.get(name, size):
            raise ModelwrightError(
                f"'{name}' of the input '{slot.name}' is {size}, and the file has room for {signature.largest[name]}",
                where=where,
                remedy="give less at once, or export with a larger example",
            )


def _check_shared(slot: Slot, tensor: Tensor, sizes: dict[str, tuple[int, str]], where: str) -> None:
    """Runtimes would stretch or cut one of them, or fail in words of their own."""
    for name, size in zip(slot.shape, tensor.shape, strict=True):
        if isinstance(name, str) and sizes.setdefault(name, (size, slot.name))[0] != size:
            other, first = sizes[name]
            raise ModelwrightError(
                f"'{name}' is {other} in the input '{first}' and {size} in '{slot.name}'",
                where=where,
                remedy="give inputs of the same samples",
            )
