"""Receipts: what a step of compression cost and gained, as plain data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelwright.models.change import Change


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a step did, each as ``(before, after)``.

    Attributes:
        step: what was done, such as ``prune``.
        parameters: how many there are; a tied one counts once.
        bytes: of parameters and buffers in memory, or of a file.
        milliseconds: of one forward pass, where it was measured.
        metric: the value of the metric, where it was measured.
        metric_name: which one.
        undone: why the step was taken back; empty where it was not.
        facts: more about it, JSON-ready.
    """

    step: str
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    milliseconds: tuple[float, float] | None = None
    metric: tuple[float, float] | None = None
    metric_name: str = ""
    undone: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Receipt:
        """What :meth:`to_json` gave."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)

    def __str__(self) -> str:
        lines = [f"{self.step}: undone, {self.undone}" if self.undone else self.step]
        lines += [
            _line("parameters", self.parameters, "{:,.0f}"),
            _line("bytes", self.bytes, "{:,.0f}"),
            _line("milliseconds", self.milliseconds, "{:.3g}"),
        ]
        if self.metric is not None:
            before, after = self.metric
            lines.append(f"  {self.metric_name or 'metric':<14}{before:.4g} -> {after:.4g}")
        return "\n".join(line for line in lines if line)


def _line(name: str, values: tuple[float, float] | None, spelled: str) -> str:
    if values is None:
        return ""
    before, after = values
    times = f"  ({before / after:.2f}x less)" if after else ""
    return f"  {name:<14}{spelled.format(before)} -> {spelled.format(after)}{times}"


def receipt_of(step: str, before: nn.Module, after: nn.Module, **others: Any) -> Receipt:
    """The receipt of a step from one model to another; ``others`` are more fields of it."""
    return Receipt(
        step=step,
        parameters=(count_parameters(before), count_parameters(after)),
        bytes=(count_bytes(before), count_bytes(after)),
        **others,
    )


def count_parameters(model: nn.Module) -> int:
    """How many numbers the parameters have; a tied one counts once."""
    return sum(each.numel() for each in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """What parameters and buffers take in memory."""
    return sum(_bytes(each) for each in (*model.parameters(), *model.buffers()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a step of compression returns.

    Attributes:
        model: the new one; the one that was given is as it was.
        change: what makes it of the given one, or of another copy of its source.
        receipt: what that cost and gained.
    """

    model: nn.Module
    change: Change
    receipt: Receipt
