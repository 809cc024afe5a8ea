"""Models that any process can rebuild: an import path with arguments, and weights in a safetensors file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modelwright.base.choice import import_path
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import replacing
from modelwright.base.tensor_file import write_tensors

FORMAT = 1
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from; unlike a module in memory it can be sent to other processes as plain text.

    Attributes:
        factory: ``package.module:name`` of a class or function that returns a module.
        arguments: keyword arguments of the factory; JSON-ready values.
        weights: a safetensors file to load, or ``None`` for the factory's own initial weights.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    def build(self) -> nn.Module:
        """Call the factory and load the weights.

        Raises:
            ModelwrightError: the import, the arguments, the factory or the weights do not fit.
        """
        model = self._call()
        if not isinstance(model, nn.Module):
            raise ModelwrightError(
                f"the factory returned a {type(model).__name__}, not a torch.nn.Module", where=self.factory
            )
        if self.weights is not None:
            load_weights(model, Path(self.weights))
        return model

    def _call(self) -> object:
        factory = import_path(self.factory)
        try:
            inspect.signature(factory).bind(**self.arguments)
        except TypeError as error:
            raise ModelwrightError(f"the arguments do not fit the factory: {error}", where=self.factory) from error
        except ValueError:
            pass  # a built-in without a signature: the call itself will tell
        try:
            return factory(**self.arguments)
        except ModelwrightError:
            raise
        except Exception as error:
            raise ModelwrightError(
                f"the factory failed: {type(error).__name__}: {error}", where=self.factory
            ) from error


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the parameters and persistent buffers of ``model`` to a safetensors file, atomically.

    A tensor with several names (tied weights) is written once; the file's metadata lists its other names.

    Raises:
        ModelwrightError: the file cannot be written, or the model is on the meta device.
    """
    save_named(tensors_of(model), path)


def save_named(state: Mapping[str, Tensor], path: Path) -> None:
    """The same, of tensors by name; tied ones are the very same memory."""
    if any(tensor.is_meta for tensor in state.values()):
        raise ModelwrightError("the model has no weights yet: it is on the meta device", where=str(path))
    tied = twins(state)
    kept = {name: tensor for name, tensor in state.items() if name not in tied}
    with replacing(path) as temporary:
        write_tensors(kept, temporary, {"format": str(FORMAT), "tied": json.dumps(tied)})


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the tensors of a safetensors file into ``model``, which keeps its devices and dtypes.

    Raises:
        ModelwrightError: no such file, no safetensors, written by a newer version, or names or shapes that
            differ.
    """
    path = Path(path)
    saved = read_weights(path)
    own = tensors_of(model)
    fill_twins(twins(own), saved)
    _compare(own, saved, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; tied ones under each of their names.

    Raises:
        ModelwrightError: no such file, no safetensors, or written by a newer version.
    """
    if not path.is_file():
        raise ModelwrightError("the file does not exist", where=str(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names: list[str] = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelwrightError(
            f"the file is not safetensors: {error}", where=str(path), remedy="restore it from a copy"
        ) from error
    # Files by others say "pt" here.
    if metadata.get("format", "").isdigit() and int(metadata["format"]) > FORMAT:
        raise ModelwrightError(
            "these weights were written by a newer modelwright",
            where=str(path),
            remedy="upgrade: pip install -U modelwright",
        )
    for name, first in json.loads(metadata.get("tied", "{}")).items():
        tensors[name] = tensors[first]
    return tensors


def materialise(model: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Give a model on the meta device uninitialised memory on ``device``, keeping its ties.

    Raises:
        ModelwrightError: a non-persistent buffer is on the meta device: no file could fill it.
    """
    persistent = model.state_dict().keys()
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in persistent]
    if lost:
        raise ModelwrightError(
            f"the buffers {', '.join(lost)} have no values on the meta device and are not saved",
            where=type(model).__name__,
            remedy="build the model on a real device, or compute these buffers in forward",
        )
    names: dict[nn.Parameter, str] = {parameter: name for name, parameter in model.named_parameters()}
    shared = {
        name: names[parameter]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if names[parameter] != name
    }
    model.to_empty(device=device)
    for name, first in shared.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
    return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied ones under each of their names."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def fill_twins(tied: Mapping[str, str], saved: dict[str, Any]) -> None:
    """Give each name of a tied weight, as of :func:`twins`, what a file by others names but once."""
    for name, first in tied.items():
        if first not in saved and name in saved:
            saved[first] = saved[name]
    for name, first in tied.items():
        if name not in saved and first in saved:
            saved[name] = saved[first]


def twins(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names that are the very same memory as an earlier name -> that earlier name."""
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name, tensor in state.items():
        if tensor.is_meta or tensor.numel() == 0:
            continue
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if first.setdefault(view, name) != name:
            found[name] = first[view]
    return found


def _compare(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    mistakes = [
        *_listed("missing in the file", sorted(own.keys() - saved.keys())),
        *_listed("unknown to the model", sorted(saved.keys() - own.keys())),
        *_listed(
            "of another shape",
            [
                f"{name} (file {list(saved[name].shape)}, model {list(tensor.shape)})"
                for name, tensor in own.items()
                if name in saved and saved[name].shape != tensor.shape
            ],
        ),
    ]
    if mistakes:
        raise ModelwrightError(
            f"the weights do not fit the model: {'; '.join(mistakes)}",
            where=str(path),
            remedy="build the model with the same settings as the one that was saved",
        )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]
