"""Snapshot: one consistent state in the host's memory, from which a checkpoint is written while training goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from modelwright.base.group import Group
from modelwright.runs.weights import SHOWN
from modelwright.training.checkpoints.arena import Arena
from modelwright.training.gathering import gather_model, gather_tensors
from modelwright.training.state import State
from modelwright.training.weights import Weights

FORMAT = 1
MODEL, OPTIMIZER, FURTHER = "model.safetensors", "optimizer.safetensors", "further.safetensors"


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        step: after so many steps.
        files: tensors in the host's memory, by name, by the file that they go to.
        numbers: the text of ``state.json``.
        arrived: returns once the tensors are there.
    """

    step: int
    files: Mapping[str, Mapping[str, Tensor]]
    numbers: str
    arrived: Callable[[], None]

    @property
    def name(self) -> str:
        """Of the checkpoint's folder."""
        return f"step-{self.step:08d}"


class Snapshot:
    """Takes states one after another into the same memory, of the size of one state."""

    def __init__(self) -> None:
        self._live, self._shown = Arena(), Arena()

    def take(self, state: State, weights: Weights | None = None) -> Contents:
        """Copy the whole state as it is now; the one taken before is overwritten.

        Where the weights to be scored are not those in training, ``weights`` gives them too.
        """
        files, live_arrived = self._live.copy(_files(state, weights))
        shown_arrived = live_arrived
        if weights is not None and weights.swapped:
            with weights.shown():
                shown, shown_arrived = self._shown.copy({SHOWN: state.model_tensors()})
            files |= shown

        def arrived() -> None:
            live_arrived()
            shown_arrived()

        return Contents(state.step, files, _text(state), arrived)


def take_gathered(state: State, group: Group, weights: Weights | None = None) -> Contents:
    """The whole of a state whose pieces the ranks hold, on rank 0 and new each time; a collective."""
    files = {name: tensors for name, tensors in _files(state, weights).items() if name != MODEL}
    whole = {MODEL: gather_model(state.held, group)}
    for name, tensors in files.items():
        part_of = state.optimizer_part_of if name == OPTIMIZER else state.part_of
        whole[name] = gather_tensors(tensors, part_of, group)
    if weights is not None and weights.swapped:
        with weights.shown():
            whole[SHOWN] = gather_model(state.held, group)
    return Contents(state.step, whole, _text(state), _nothing)


def snapshot_bytes(state: State, weights: Weights | None = None) -> int:
    """The memory that :class:`Snapshot` takes for this state, once the optimizer has its moments."""
    files = _files(state, weights)
    sizes = {(tensor.data_ptr(), tensor.nbytes) for tensors in files.values() for tensor in tensors.values()}
    shown = weights is not None and weights.swapped
    return sum(size for _, size in sizes) + shown * sum(tensor.nbytes for tensor in state.model_tensors().values())


def _files(state: State, weights: Weights | None) -> dict[str, dict[str, Tensor]]:
    files = {MODEL: state.model_tensors(), OPTIMIZER: state.optimizer_tensors()}
    if further := state.further_tensors():
        files[FURTHER] = further
    if weights is not None and (averages := weights.averaged_tensors()):
        files[SHOWN] = averages
    return files


def _text(state: State) -> str:
    numbers = json.dumps({"format": FORMAT, **state.numbers()}, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{numbers}\n"


def _nothing() -> None:
    return None
