"""A model as a program of torch.export, with every size left open that the model leaves open."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.export.call import Call
from modelwright.export.experts import every_expert, tell_experts
from modelwright.export.resizing import refused_sizes
from modelwright.export.signature import Signature, Slot, flat
from modelwright.export.specialised import Specialised
from modelwright.models.modes import evaluating

_SYMBOL = re.compile(r"\b[su]\d+\b")
_LEAVES = "`isinstance.treespec, LeafSpec.` is deprecated"  # torch's own use of what it has deprecated
_ATTEMPTS = ("all", "the batch alone", "none")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A captured model.

    Attributes:
        exported: the program; its arguments are the inputs of the signature in their order, its outputs likewise.
        signature: names, types and shapes.
        call: the call that was captured.
    """

    exported: ExportedProgram
    signature: Signature
    call: Call


def capture(model: nn.Module, call: Call) -> Program:
    """What ``model`` computes for a call, in evaluation mode, on the CPU.

    Each size of an input that the example does not have as 0 or 1 is left open, unless the model's code compares it
    with a number or turns it into one, or the model refuses every other size that is tried: then it is fixed, and an
    event says why. Where the code does not work with open sizes at all, only the batch is left open, or nothing.

    Args:
        model: on the CPU; not altered.
        call: what it is called with; at least two samples, or the batch stays fixed.

    Raises:
        ModelwrightError: the model cannot be captured, with the reason.
    """
    capturing = _Capturing(model, call)
    program = capturing.program()
    if refused := refused_sizes(model, call, program.signature):
        capturing.close(program.signature, refused)
        program = capturing.program()
    capturing.tell(program.signature)
    tell_experts(model)
    _forget_places(program.exported)
    return program


class _Capturing:
    """Attempts to capture a model, each leaving open less than the one before."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        self._model, self._call = model, call
        self._structure, outputs = flat(call.answer(model))
        self._outputs = list(outputs)
        self._closed: dict[tuple[str, int], str] = {
            (name, dim): f"{size} in the example"
            for name, tensor in call.tensors.items()
            for dim, size in enumerate(tensor.shape)
            if size <= 1
        }
        self._failures: list[str] = []
        self._opened = _ATTEMPTS[0]
        self._noted = Specialised(list(call.tensors))

    def close(self, signature: Signature, names: Collection[str]) -> None:
        """Fix sizes from now on."""
        for slot in signature.inputs:
            for dim, size in enumerate(slot.shape):
                if size in names:
                    self._closed[slot.name, dim] = "the model refuses others"

    def program(self) -> Program:
        """Of the first attempt that succeeds."""
        for self._opened in _ATTEMPTS:
            self._noted = Specialised(list(self._call.tensors))
            try:
                with _quietly(), self._noted, every_expert(self._model):
                    exported = self._export()
            except ModelwrightError:
                raise
            except Exception as failure:  # whatever the tracing of foreign code raises
                self._failures.append(f"{type(failure).__name__}: {_first_line(failure)}")
                continue
            signature = _signature(exported, self._call, self._structure, self._outputs)
            if self._opened == _ATTEMPTS[0] and self._lost_batch(signature):
                continue
            return Program(exported=exported, signature=signature, call=self._call)
        raise _refusal(self._failures[-1])

    def tell(self, signature: Signature) -> None:
        """Say what stayed fixed, and why."""
        if self._opened != _ATTEMPTS[0]:
            what = f"of the sizes of the exported file's inputs, {self._opened} may vary: {self._failures[-1]}"
            emit("export-fixed", what, level="warning", reason=self._failures[-1])
        fixed = {
            f"{slot.name} dim {dim}": self._closed.get((slot.name, dim)) or self._noted.reason(slot.name, dim)
            for slot in signature.inputs
            for dim, size in enumerate(slot.shape)
            if isinstance(size, int)
        }
        if fixed:
            told = "; ".join(f"{place} ({reason})" if reason else place for place, reason in fixed.items())
            emit("export-sizes", f"fixed in the exported file: {told}", fixed=fixed)

    def _export(self) -> ExportedProgram:
        program = _Flat(self._model, self._call)
        with evaluating(program), torch.no_grad():
            return torch.export.export(
                program,
                tuple(each.contiguous() for each in self._call.tensors.values()),
                dynamic_shapes=(tuple(self._dims(*each) for each in self._call.tensors.items()),),
                strict=False,
            )

    def _dims(self, name: str, tensor: Tensor) -> dict[int, Any]:
        dims = {_ATTEMPTS[0]: tensor.dim(), _ATTEMPTS[1]: min(1, tensor.dim()), _ATTEMPTS[2]: 0}[self._opened]
        return {dim: Dim.AUTO for dim in range(dims) if (name, dim) not in self._closed}

    def _lost_batch(self, signature: Signature) -> bool:
        """Whether the batch was fixed, though it may stay open where the other sizes are not."""
        first = signature.inputs[0]
        lost = bool(first.shape) and isinstance(first.shape[0], int) and (first.name, 0) not in self._closed
        if lost:
            self._failures.append(self._noted.reason(first.name, 0) or "the model's code fixes the batch")
        return lost


class _Flat(nn.Module):
    """Tensors in, tensors out, in the order of the signature."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        places, names = self._call.arguments(dict(zip(self._call.tensors, tensors, strict=True)))
        return tuple(flat(self.model(*places, **names))[1].values())


def _values(exported: ExportedProgram, call: Call) -> list[Tensor]:
    """The inputs as the program knows them, with symbols in their shapes."""
    named = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    return [named[name] for name in exported.graph_signature.user_inputs if isinstance(name, str)]


def _signature(exported: ExportedProgram, call: Call, structure: Any, outputs: Sequence[str]) -> Signature:
    values = dict(zip(call.tensors, _values(exported, call), strict=True))
    known = _named_symbols(values, call)
    last = next(node for node in reversed(exported.graph.nodes) if node.op == "output")
    returned = [node.meta["val"] for node in last.args[0]]
    taken = set(values)
    names = [f"output_{name}" if name in taken else name for name in outputs]
    return Signature(
        inputs=tuple(_slot(name, value, known) for name, value in values.items()),
        outputs=tuple(_slot(name, value, known) for name, value in zip(names, returned, strict=True)),
        structure=structure,
    )


def _named_symbols(values: Mapping[str, Tensor], call: Call) -> dict[str, str]:
    """``batch`` and ``length`` for the symbols of torch; where there are several lengths, with the input's name.

    The batch is one, though torch has a symbol for each input where the code compares none of them: samples are first.
    """
    known: dict[str, str] = {}
    samples = next(iter(call.tensors.values())).shape[:1]
    for name, value in values.items():
        for dim, size in enumerate(value.shape):
            symbol = str(size)
            if isinstance(size, torch.SymInt) and _SYMBOL.fullmatch(symbol) and symbol not in known:
                word = {0: "batch", 1: "length"}.get(dim, f"size_{dim}")
                shared = dim == 0 and call.tensors[name].shape[:1] == samples
                known[symbol] = f"{name}_{word}" if word in known.values() and not shared else word
    return known


def _slot(name: str, value: Tensor, known: Mapping[str, str]) -> Slot:
    terms = [named(str(size), known) for size in value.shape]  # also of sizes that turned out to be numbers
    shape = tuple(int(term) if term.isdigit() else term for term in terms)
    return Slot(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=shape)


def named(term: str, known: Mapping[str, str]) -> str:
    """A term of symbols with their names."""
    return _SYMBOL.sub(lambda found: known.get(found[0], found[0]), term)


def symbols(program: Program) -> dict[str, str]:
    """Symbols of the captured program -> names of the signature."""
    values = dict(zip(program.call.tensors, _values(program.exported, program.call), strict=True))
    return _named_symbols(values, program.call)


def _forget_places(exported: ExportedProgram) -> None:
    """Paths of this machine do not belong in a file for others."""
    for module in exported.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)


def _refusal(reason: str) -> ModelwrightError:
    return ModelwrightError(
        f"the model cannot be captured: {reason}",
        where="torch.export",
        remedy="let shapes and branches depend on sizes, not on the content of tensors; or export another format",
    )


def _first_line(error: Exception) -> str:
    return next((line.strip(" -*") for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _LEAVES, FutureWarning)
        yield
