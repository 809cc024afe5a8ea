"""What goes between a training and the processes that read for it: a pickled share there, bare batches back."""

from __future__ import annotations

import io
import json
import mmap
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch


class Gone(Exception):
    """The other end has closed, perhaps in the middle of a message."""


def pickled(value: object) -> bytes:
    """``value`` as bytes for a process on this machine: arrays mapped from files go as their places in these.

    Raises:
        ModelwrightError: it cannot be pickled.
    """
    target = io.BytesIO()
    try:
        _Pickler(target, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ModelwrightError(
            f"the data set cannot be sent to another process: {error}",
            remedy="hold no open files, locks or local functions in it, or let no processes read it (workers=0)",
        ) from error
    return target.getvalue()


def send(sink: BinaryIO, header: dict[str, Any], *arrays: NDArray[np.uint8]) -> None:
    """Send a header and the bytes of arrays.

    Raises:
        Gone: nobody receives.
    """
    try:
        sink.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            sink.write(array.data)
        sink.flush()
    except (BrokenPipeError, ValueError) as error:
        raise Gone from error


def receive(source: BinaryIO) -> dict[str, Any]:
    """A header that was sent.

    Raises:
        Gone: the other end closed.
        ModelwrightError: that of the other end, which it sent instead.
    """
    line = source.readline()
    if not line.endswith(b"\n"):
        raise Gone
    header: dict[str, Any] = json.loads(line)
    if "error" in header:
        raise ModelwrightError(**header["error"])
    return header


def send_batch(sink: BinaryIO, indices: NDArray[np.int64], batch: Batch) -> None:
    """Send samples and their indices; each tensor is contiguous, or so in ``channels_last``.

    Raises:
        Gone: nobody receives.
    """
    shown = {name: tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1) for name, tensor in batch.items()}
    tensors = [
        [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor is not batch[name]]
        for name, tensor in shown.items()
    ]
    header = {"samples": len(indices), "tensors": tensors}
    send(sink, header, indices.view(np.uint8), *(_bytes(tensor).numpy() for tensor in shown.values()))


def receive_batch(source: BinaryIO) -> tuple[NDArray[np.int64], Batch]:
    """What :func:`send_batch` sent.

    Raises:
        Gone: the other end closed.
        ModelwrightError: that of the other end.
    """
    header = receive(source)
    indices = np.empty(header["samples"], dtype=np.int64)
    _fill(source, indices.view(np.uint8))
    batch: Batch = {}
    for name, kind, shape, channels_last in header["tensors"]:
        tensor = torch.empty(shape, dtype=getattr(torch, kind))
        _fill(source, _bytes(tensor).numpy())
        batch[name] = tensor.permute(0, 3, 1, 2) if channels_last else tensor
    return indices, batch


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _fill(source: BinaryIO, target: NDArray[np.uint8]) -> None:
    if target.size and source.readinto(target.data) != target.size:  # type: ignore[attr-defined]
        raise Gone


class _Pickler(pickle.Pickler):
    """A mapped file is not read to be sent; the other process maps it, too."""

    def reducer_override(self, value: Any) -> Any:
        place = _place(value) if isinstance(value, np.ndarray) and value.size else None
        return NotImplemented if place is None else (_mapped, place)


def _place(array: NDArray[Any]) -> tuple[str, str, int, tuple[int, ...]] | None:
    """Where in a file ``array`` lies, if it does, unchanged and in one piece."""
    file = array
    while not isinstance(file, np.memmap) and isinstance(file.base, np.ndarray):
        file = file.base
    if not isinstance(file, np.memmap) or file.mode != "r" or not array.flags.c_contiguous:
        return None
    path, mapped = file.filename, getattr(file, "_mmap", None)
    if path is None or mapped is None or array.dtype.hasobject:
        return None
    begin = file.offset - file.offset % mmap.ALLOCATIONGRANULARITY
    inside = array.ctypes.data - np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    return str(Path(path)), array.dtype.str, begin + inside, array.shape


def _mapped(path: str, kind: str, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.memmap(path, dtype=np.dtype(kind), mode="r", offset=offset, shape=shape)
