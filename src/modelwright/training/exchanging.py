"""What the exchanges of a training remember, as a part of its state: each rank's own, gathered before a save."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.parallel import Exchange


class Exchanged:
    """Saved as ``RANK/UPDATE/PARAMETER/KIND``: a run that goes on with as many workers does so to the bit.

    Args:
        exchanges: by name of their update.
        group: the ranks.
        names: of all parameters.
    """

    def __init__(self, exchanges: Mapping[str, Exchange], group: Group, names: Mapping[nn.Parameter, str]) -> None:
        self._exchanges, self._group, self._names = exchanges, group, names
        self._held: dict[str, Tensor] = {}

    def collect(self) -> None:
        """Bring to rank 0 what every rank remembers; a collective. :meth:`state` is of the last call."""
        own = {
            f"{update}/{name}": tensor.contiguous()
            for update, exchange in self._exchanges.items()
            for name, tensor in exchange.state(self._names).items()
        }
        if self._held and not own:
            self._tell_dropped()
        if self._group.rank > 0:
            for tensor in own.values():
                self._group.exchange(send=[(tensor, 0)]).wait()
            return
        self._held = {f"0/{name}": tensor for name, tensor in own.items()}
        for rank in range(1, self._group.size):
            for name, tensor in own.items():
                came = torch.empty_like(tensor)
                self._group.exchange(receive=[(came, rank)]).wait()
                self._held[f"{rank}/{name}"] = came.cpu()  # those of all ranks may be more than a device holds

    def state(self) -> dict[str, Tensor]:
        """What every rank remembered; elsewhere than on rank 0 nothing."""
        return self._held

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from it; with another number of ranks the sum of what gradients still lack is shared out."""
        self._held = state if self._group.rank == 0 else {}
        ranks = 1 + max((int(name.partition("/")[0]) for name in state), default=-1)
        for update, exchange in self._exchanges.items():
            begins = [f"{rank}/{update}/" for rank in range(ranks)]
            states = [_below(begin, state) for begin in begins]
            if any(states):
                exchange.load(states, self._names, self._group.rank)
        if ranks > 0 and self._group.size not in (1, ranks) and self._group.rank == 0:
            what = f"what the gradients of {ranks} workers still lacked is shared out among {self._group.size}"
            emit("exchange-shared", what, before=ranks, workers=self._group.size)

    def _tell_dropped(self) -> None:
        """Not while loading: whoever only looks at a state, or branches off it, hands it on."""
        if self._group.rank == 0:
            what = "what compressed gradients still lacked is dropped: nothing is compressed now"
            emit("exchange-dropped", what, level="warning")


def _below(begin: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(begin): tensor for name, tensor in state.items() if name.startswith(begin)}
