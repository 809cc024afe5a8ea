"""Optimizer state as named tensors: ``PARAMETER/KEY``, for files without pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.events import emit
from modelwright.optim import Optimizer
from modelwright.optim.joined import parts
from modelwright.optim.offload import Offloaded

_NUMBERS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "bool": bool}
_GROUPS = "param_groups/"
# Who sets them: the model, the schedules, the recipe.
_NOT_SAVED = {"params", "lr", "momentum", "betas", "weight_decay", "base_lr", "base_momentum", "base_weight_decay"}
# What torch's optimizers read back. State of another optimizer would lie there unread, so it is refused.
_KEYS: dict[type, set[str]] = {
    torch.optim.Adafactor: {"step", "row_var", "col_var", "variance"},
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Muon: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
}


def optimizer_state(optimizer: Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """The state of ``optimizer`` as ``{"PARAMETER/KEY": tensor}``; the very tensors, not copies.

    Python numbers become 0-dim tensors whose key ends in ``:int`` or ``:float``. A parameter without state,
    because it has had no gradient yet, has no entry.

    Args:
        optimizer: of which to take the state.
        names: logical name of each parameter.

    Raises:
        ModelwrightError: state that is neither tensor nor number, or a parameter without a name.
    """
    tensors = {}
    for parameter, values in optimizer.state.items():
        name = _name(names, parameter)
        for key, value in values.items():
            if value is not None:
                suffix, tensor = _as_tensor(value, f"{name}/{key}")
                tensors[f"{name}/{key}{suffix}"] = tensor
    return tensors


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Copies of the settings of each group, to be compared by :func:`changed_settings` later."""
    return [{key: _copied(value) for key, value in _settings(group)} for group in optimizer.param_groups]


def changed_settings(optimizer: Optimizer, built: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """What the optimizer itself has changed in its groups, as ``{"param_groups/NUMBER/KEY": tensor}``.

    Some optimizers count there (schedule-free ones, Prodigy). Learning rates are left out: they are set in each step.

    Args:
        optimizer: whose groups to look at.
        built: :func:`group_settings` of the optimizer when it was new.

    Raises:
        ModelwrightError: something was changed that is neither tensor nor number.
    """
    tensors = {}
    for number, (group, before) in enumerate(zip(optimizer.param_groups, built, strict=False)):
        for key, value in _settings(group):
            if value is not None and not _equal(value, before.get(key)):
                path = f"{_GROUPS}{number}/{key}"
                suffix, tensor = _as_tensor(value, path)
                tensors[path + suffix] = tensor
    return tensors


def load_optimizer_state(optimizer: Optimizer, names: Mapping[Any, str], tensors: Mapping[str, Tensor]) -> None:
    """Replace the state of ``optimizer`` by what :func:`optimizer_state` returned.

    Works before the first step too; what :func:`changed_settings` returned may be among it. Values are copied to the
    device of their parameter, or to the CPU where they are off-loaded, and keep their dtype.
    Parameters without saved state begin anew, and an event names them.

    Raises:
        ModelwrightError: state of parameters that are not the optimizer's, of another shape or optimizer.
    """
    changed = {path: tensor for path, tensor in tensors.items() if path.startswith(_GROUPS)}
    saved = _by_parameter({path: tensor for path, tensor in tensors.items() if path not in changed})
    owners = {_name(names, parameter): (owner, group, parameter) for owner, group, parameter in _owned(optimizer)}
    if unknown := sorted(saved.keys() - owners.keys()):
        raise ModelwrightError(
            f"the saved optimizer state is of parameters that are not trained here: {', '.join(unknown[:8])}",
            remedy=nearest(unknown[0], owners) or "resume with the model that was saved",
        )
    for name, values in saved.items():
        owner, _, parameter = owners[name]
        _check(owner, name, parameter, values)
    _restore_groups(optimizer, changed)
    offloaded = isinstance(optimizer, Offloaded)
    for name, (owner, group, parameter) in owners.items():
        owner.state.pop(parameter, None)
        if name in saved:
            owner.state[parameter] = {
                key: _restored(key, value, group, parameter, offloaded) for key, value in saved[name].items()
            }
    _tell_missing([name for name in owners if saved and name not in saved])


def _owned(optimizer: Optimizer) -> Iterator[tuple[Optimizer, dict[str, Any], Tensor]]:
    """The optimizer itself, or the part of a joined one, with group and parameter."""
    for part in parts(optimizer):
        for group in part.param_groups:
            for parameter in group["params"]:
                yield part, group, parameter


def _name(names: Mapping[Any, str], parameter: Tensor) -> str:
    if parameter not in names:
        raise ModelwrightError(
            f"a parameter of shape {list(parameter.shape)} in the optimizer is not in the model",
            remedy="build the optimizer from the model that is trained",
        )
    return names[parameter]


def _as_tensor(value: object, where: str) -> tuple[str, Tensor]:
    if isinstance(value, Tensor):
        return "", value
    if type(value) is int:
        return ":int", torch.tensor(value, dtype=torch.int64)
    if type(value) is bool:
        return ":bool", torch.tensor(value)
    if type(value) is float:
        return ":float", torch.tensor(value, dtype=torch.float64)
    raise ModelwrightError(
        f"the optimizer keeps a {type(value).__name__}, which cannot be saved",
        where=where,
        remedy="keep tensors, ints or floats in optimizer.state, and in groups what changes while training",
    )


def _settings(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in group.items() if key not in _NOT_SAVED)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)


def _equal(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(before, Tensor) and torch.equal(value, before)
    return type(value) is type(before) and bool(value == before)


def _restore_groups(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    groups = optimizer.param_groups
    for path, settings in _by_parameter(tensors).items():
        number = int(path.removeprefix(_GROUPS))
        if number >= len(groups):
            raise ModelwrightError(
                f"the saved optimizer has a group {number}, this one has {len(groups)} groups",
                where=path,
                remedy="resume with the optimizer that was saved",
            )
        for key, value in settings.items():
            before = groups[number].get(key)
            device = before.device if isinstance(before, Tensor) else None
            groups[number][key] = value.detach().to(device, copy=True) if isinstance(value, Tensor) else value


def _by_parameter(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    saved: dict[str, dict[str, Any]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        key, _, number = key.partition(":")
        saved.setdefault(name, {})[key] = _NUMBERS[number](tensor.item()) if number else tensor
    return saved


def _check(owner: Optimizer, name: str, parameter: Tensor, values: Mapping[str, Any]) -> None:
    known = getattr(owner, "state_keys", None) or _KEYS.get(type(owner))
    if known is not None and not values.keys() <= known:
        raise ModelwrightError(
            f"the saved state is of another optimizer than {type(owner).__name__}: "
            f"it has {', '.join(sorted(values.keys() - known))}",
            where=name,
            remedy="resume with the optimizer that was saved",
        )
    for key, value in values.items():
        if isinstance(value, Tensor) and not _fits(value.shape, parameter.shape):
            raise ModelwrightError(
                f"the saved state has shape {list(value.shape)}, the parameter {list(parameter.shape)}",
                where=f"{name}/{key}",
                remedy="resume with the model that was saved",
            )


def _fits(state: torch.Size, parameter: torch.Size) -> bool:
    """Equal, a scalar, or factored (rows or columns only, as in Adafactor)."""
    if len(state) == 0:
        return True
    pairs = zip(state, parameter, strict=False)
    return len(state) == len(parameter) and all(size in (1, whole) for size, whole in pairs)


def _restored(key: str, value: Any, group: Mapping[str, Any], parameter: Tensor, offloaded: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    device = _home(key, value, group, parameter, offloaded)
    if value.shape != parameter.shape:
        return value.detach().to(device, copy=True)
    # With the strides of the parameter, which files do not keep: torch's fused kernels walk through raw memory.
    return torch.empty_like(parameter, dtype=value.dtype, device=device, requires_grad=False).copy_(value)


def _home(key: str, value: Tensor, group: Mapping[str, Any], parameter: Tensor, offloaded: bool) -> torch.device:
    """Torch keeps step counters on the CPU, unless a kernel on the device counts."""
    counts_on_host = key == "step" and not (group.get("fused") or group.get("capturable"))
    away = offloaded and value.dim() > 0
    return torch.device("cpu") if away or (value.dim() == 0 and counts_on_host) else parameter.device


def _tell_missing(names: list[str]) -> None:
    if names:
        emit(
            "optimizer-state-partial",
            f"no optimizer state was saved for {len(names)} parameters; they begin anew",
            parameters=names,
        )
