"""The repeated blocks of a model: where compiling and recomputing begin and end."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def regions(model: nn.Module) -> Iterator[str]:
    """Names of the outermost repeated blocks, such as the layers of a transformer.

    They are the members of each ``nn.ModuleList`` or ``nn.Sequential`` that holds two or more modules of one class
    with parameters of their own and children (a bare linear layer is no block); what is inside of a block is not looked
    at.
    """
    yield from _within(model, "")


def _within(module: nn.Module, name: str) -> Iterator[str]:
    blocks = _repeated(module) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
    if blocks:
        yield from (_joined(name, block) for block in blocks)
        return
    for child_name, child in module.named_children():
        yield from _within(child, _joined(name, child_name))


def _joined(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _repeated(members: nn.Module) -> list[str]:
    found = {
        name: type(member)
        for name, member in members.named_children()
        if any(True for _ in member.children()) and any(True for _ in member.parameters())
    }
    kinds = list(found.values())
    return [name for name, kind in found.items() if kinds.count(kind) > 1]
