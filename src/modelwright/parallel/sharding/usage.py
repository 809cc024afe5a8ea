"""Usage: which parameters a backward reached, where all ranks must reduce the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from modelwright.base.errors import RunFailed
from modelwright.base.group import Group
from modelwright.parallel.sharding.parameters import ShardedParameter

_PRIME = 1_048_573  # Its square is exact in float64, also summed over a thousand ranks.


class Usage:
    """Watches the units of a sharded model.

    A gradient that is missing on this rank is zero there, before the unit's are reduced: another rank may have one.

    Args:
        root: the module that the backward begins with.
        units: what is gathered together, by module; that of ``root`` among them.
        holdings: all parameters, in the order in which ranks speak of them.
        wide: whether gradients are summed in another type than they have.

    Attributes:
        final: whether torch takes the next backward for the last of a step; ``None`` before it was told.
        reducing: whether it reduces then.
    """

    def __init__(
        self,
        root: nn.Module,
        units: Sequence[tuple[nn.Module, list[ShardedParameter]]],
        holdings: Sequence[ShardedParameter],
        *,
        wide: bool,
    ) -> None:
        self.final: bool | None = None
        self.reducing = True
        self._units, self._holdings, self._wide = [members for _, members in units], holdings, wide
        self._place = {one: number for number, one in enumerate(holdings)}
        self.forget()
        for number, (module, _) in enumerate(units):
            if module is root:
                module.register_forward_hook(self._begin, prepend=True)
            else:
                module.register_forward_pre_hook(_Watch(self, number), with_kwargs=True)

    def forget(self) -> None:
        """A new step."""
        self._used = [False] * len(self._holdings)
        self._order = 0
        self._seen: set[int] = set()
        self._awaited = False

    def enter(self, number: int) -> None:
        """Note that a unit computes."""
        self._order = (self._order * 31 + number + 1) % _PRIME

    def complete(self, number: int) -> None:
        """The unit's gradients are there, as far as they come."""
        self._seen.add(number)
        for one in self._units[number]:
            parameter = one.present
            if parameter is None or not parameter.requires_grad:
                continue
            if parameter.grad is not None:
                self._used[self._place[one]] = True
            elif self.reducing or self._wide:
                with torch._C.DisableTorchFunction():  # what other layouts see in a parameter is not what is reduced
                    parameter.grad = torch.zeros_like(parameter)

    def agree(self, group: Group, device: torch.device) -> list[bool]:
        """Which parameters any rank of ``group`` used.

        Raises:
            RunFailed: the ranks did not run the same blocks.
        """
        for one in self._holdings:
            if one.whole and one.plain.grad is not None:
                self._used[self._place[one]] = True
        numbers = [*map(float, self._used), float(self._order), float(self._order) ** 2]
        *used, order, squares = group.all_reduce(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()
        if group.size * squares != order**2:
            raise RunFailed(
                "the ranks ran different blocks of the model, so their gathered parameters were mixed up",
                where=f"rank {group.rank} of {group.size}",
                remedy="let every rank run every block, or use the layout replicate",
            )
        return [count > 0 for count in used]

    def _begin(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if torch.is_grad_enabled():
            for value in tree_flatten(outputs)[0]:
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(self._backward_begins)  # type: ignore[no-untyped-call]

    def _backward_begins(self, gradient: Tensor) -> None:
        if self._awaited:
            return
        self._awaited, self._seen = True, set()
        torch.autograd.Variable._execution_engine.queue_callback(self._backward_ends)

    def _backward_ends(self) -> None:
        """Units whose inputs have no gradient are complete only now; torch reduces them after this."""
        self._awaited = False
        for number in range(len(self._units)):
            if number not in self._seen:
                self.complete(number)


class _Watch:
    """Before a block's forward: what it reads is followed back."""

    def __init__(self, usage: Usage, number: int) -> None:
        self._usage, self._number = usage, number

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, module: nn.Module, positional: Any, named: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        self._usage.enter(self._number)
        values, form = tree_flatten((positional, named))
        places = [place for place, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]
        if not places:
            return None
        watched = _Complete.apply(self._usage, self._number, *(values[place] for place in places))  # type: ignore[no-untyped-call]
        for place, value in zip(places, watched, strict=True):
            values[place] = value
        return tree_unflatten(values, form)


class _Complete(torch.autograd.Function):
    """Its backward runs when that of a block is over."""

    @staticmethod
    def forward(ctx: Any, usage: Usage, number: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.usage, ctx.number = usage, number
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.usage.complete(ctx.number)
        return (None, None, *gradients)


def own_outputs(module: nn.Module) -> None:
    """Let a block return no views: torch's hooks on them would be lost where one is changed in place."""
    module.register_forward_hook(_own)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _own(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return tree_map(_owned, outputs)


def _owned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.requires_grad and value._base is not None else value
