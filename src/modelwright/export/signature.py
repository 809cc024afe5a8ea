"""What goes into an exported file and what comes out: names, types, and shapes with sizes that may vary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import logits_of

Structure = Literal["tensor", "sequence", "mapping"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One input or output.

    Attributes:
        name: as in the file.
        dtype: such as ``float32``, as torch spells it.
        shape: a number where the size is fixed; a name such as ``batch``, or a term of names, where it may vary.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def check(self, tensor: Tensor, where: str) -> None:
        """Refuse a tensor that the file does not take.

        Raises:
            ModelwrightError: another type, or a size that is fixed to another.
        """
        wrong = str(tensor.dtype).removeprefix("torch.") != self.dtype or len(tensor.shape) != len(self.shape)
        sizes = zip(self.shape, tensor.shape, strict=False)
        if wrong or any(isinstance(size, int) and size != have for size, have in sizes):
            raise ModelwrightError(
                f"the input '{self.name}' is {self.dtype} {_shown(self.shape)} in the file, "
                f"not {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
                where=where,
                remedy="sizes with a name may vary; export again with the size that is needed",
            )


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of a file.

    Attributes:
        inputs: in the order of the file.
        outputs: in the order of the file.
        structure: what the model returned: a ``tensor``, a ``sequence`` of tensors, or a ``mapping`` of names to them.
        largest: how large sizes with a name may be; those that are not there have no bound.
    """

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    structure: Structure = "tensor"
    largest: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text, for the metadata of a file."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str) -> Signature:
        """The signature that a file's metadata holds.

        Raises:
            ModelwrightError: it is none.
        """
        try:
            said = json.loads(text)
            slots = {key: tuple(_slot(each) for each in said[key]) for key in ("inputs", "outputs")}
            return cls(**slots, structure=said["structure"], largest=dict(said.get("largest", {})))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelwrightError(
                f"the file does not say what goes in and comes out: {error}",
                where=where,
                remedy="export it with modelwright export",
            ) from error

    def varying(self) -> tuple[str, ...]:
        """Names of sizes of inputs that may vary."""
        names = (size for slot in self.inputs for size in slot.shape if isinstance(size, str))
        return tuple(dict.fromkeys(name for name in names if name.isidentifier()))


def flat(outputs: Any) -> tuple[Structure, dict[str, Tensor]]:
    """The tensors of what a model returned, by name: a tensor, an object with ``logits``, a sequence or a mapping.

    Raises:
        ModelwrightError: it is something else.
    """
    told = logits_of(outputs)
    if isinstance(told, Tensor):
        return "tensor", {"outputs" if told is outputs else "logits": told}
    if isinstance(told, Mapping) and _are_tensors(told.values()):
        return "mapping", dict(told)
    if isinstance(told, (tuple, list)) and _are_tensors(told):
        return "sequence", {f"outputs_{number}": each for number, each in enumerate(told)}
    raise ModelwrightError(
        f"the model returns a {type(outputs).__name__}, which a file cannot",
        remedy="let it return a tensor, an object with logits, or a sequence or mapping of tensors",
    )


def structured(structure: Structure, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of :func:`flat`."""
    if structure == "tensor":
        return next(iter(tensors.values()))
    return dict(tensors) if structure == "mapping" else tuple(tensors.values())


def dtype_of(slot: Slot) -> torch.dtype:
    """The slot's type, as torch has it."""
    return getattr(torch, slot.dtype)  # type: ignore[no-any-return]


def _slot(said: Mapping[str, Any]) -> Slot:
    return Slot(name=str(said["name"]), dtype=str(said["dtype"]), shape=tuple(said["shape"]))


def _are_tensors(values: Any) -> bool:
    return len(values) > 0 and all(isinstance(each, Tensor) for each in values)


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
