"""The first state of a branch: that of its parent's checkpoint, as far as it fits what is trained now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.app.moments import moments_fit
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json
from modelwright.data.sampling.global_sampling import Global
from modelwright.recipe.changes import Change, below
from modelwright.training.checkpoints import read_tensors
from modelwright.training.prepared import Prepared

_PLACE_STAYS = ("data.cache", "data.cache_bytes", "data.on_damage")
_HANGS_ON = {
    "averages": ("averaging",),
    "best": ("evaluation", "objective", "data", "model", "averaging", "optimizer.use"),
    "patience": ("evaluation", "objective", "data", "model", "averaging", "optimizer.use"),
    "reference": ("objective",),
    "loss-scale": ("loss_scale", "plan.precision", "updates"),
    "schedule": ("schedule", "updates", "evaluation", "objective", "data"),
    "exchange": ("plan.exchange", "model", "updates"),
}
"""Which parts of the state go with which parts of the recipe."""


def inherit(prepared: Prepared, checkpoint: Path, found: Sequence[Change]) -> list[str]:
    """Load into ``prepared`` what fits of a parent's checkpoint.

    Args:
        prepared: the branch, laid out and not yet trained.
        checkpoint: of the parent, whole.
        found: what the branch's recipe has otherwise.

    Returns:
        What does not go on, in words.

    Raises:
        ModelwrightError: the weights do not fit the model.
    """
    state, numbers = prepared.state, read_json(checkpoint / "state.json")
    heirs = _Heirs(found, numbers.get("parts", {}))
    own = state.numbers()
    further = _read(checkpoint / "further.safetensors")
    parts = {name: heirs.parts[name] if heirs.keeps(name) else part for name, part in own["parts"].items()}
    moments = _read(checkpoint / "optimizer.safetensors")
    if moments and not moments_fit(found, moments):
        heirs.dropped.append("the optimizer's moments: they begin anew")
        moments = {}
    same_order = {name: own[name] for name in ("batch", "seed", "total")}
    weights = _loaded_weights(prepared, checkpoint)
    tensors = {**_fresh_averages(prepared), **{name: tensor for name, tensor in further.items() if heirs.has(name)}}
    state.load(weights, moments, {**numbers, **same_order, "parts": parts}, tensors)
    if place_is_lost(found):
        state.samples = 0
        heirs.dropped.append("the place in the data, which is other data: it is read from its beginning")
    elif state.samples % state.batch and not isinstance(prepared.training.sampling, Global):
        state.samples = -(-state.samples // state.batch) * state.batch
        heirs.dropped.append("the place in the data: it goes on with a whole step of its own way to draw")
    return heirs.dropped


def place_is_lost(found: Sequence[Change]) -> bool:
    """Whether the data is other data, in which the place of the old one means nothing."""
    return any(below(change.path, ("data",)) and not below(change.path, _PLACE_STAYS) for change in found)


class _Heirs:
    """Which parts go on; what does not is noted once."""

    def __init__(self, found: Sequence[Change], parts: dict[str, Any]) -> None:
        self.parts = parts
        self.dropped: list[str] = []
        self._found = found
        self._gone: set[str] = set()

    def keeps(self, name: str) -> bool:
        """Whether the numbers of this part go on."""
        return name in self.parts and self._fits(name)

    def has(self, path: str) -> bool:
        """Whether the tensor ``PART/NAME`` goes on."""
        return self._fits(path.partition("/")[0])

    def _fits(self, name: str) -> bool:
        kind = name.rpartition(".")[2]
        if not any(below(change.path, _HANGS_ON.get(kind, ())) for change in self._found):
            return True
        if name not in self._gone:
            self._gone.add(name)
            self.dropped.append(f"{name}: begins anew")
        return False


def _loaded_weights(prepared: Prepared, checkpoint: Path) -> dict[str, Tensor]:
    """The weights of the checkpoint, put into the model too: averages that begin anew begin from them."""
    weights = read_tensors(checkpoint / "model.safetensors")
    own = prepared.state.model_tensors()
    wrong = [*(own.keys() ^ weights.keys()), *(name for name in own.keys() & weights if _differ(own, weights, name))]
    if wrong:
        raise ModelwrightError(
            f"the checkpoint's weights do not fit this model: {', '.join(sorted(wrong)[:5])}",
            where="model",
            remedy="leave its sizes and number formats as they are; or begin a run with  start: {run: ...}, which can "
            "leave out a head, rename and cast",
        )
    prepared.state.held.put(weights)
    return weights


def _differ(own: dict[str, Tensor], weights: dict[str, Tensor], name: str) -> bool:
    return own[name].shape != weights[name].shape or own[name].dtype != weights[name].dtype


def _fresh_averages(prepared: Prepared) -> dict[str, Tensor]:
    averaging = prepared.training.averaging
    if averaging is None:
        return {}
    state = averaging.build(prepared.state.held.tensors()).state()
    return {f"averages/{name}": tensor for name, tensor in state.items()}


def _read(path: Path) -> dict[str, Tensor]:
    return read_tensors(path) if path.exists() else {}
