"""What is asked of a quantization, and the examples that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches
from modelwright.compression.quantize.encoding import Encoding, Integers
from modelwright.compression.quantize.inputs import Dynamic, Static
from modelwright.compression.quantize.rounding import Rounding
from modelwright.compression.quantize.rounding.nearest import Nearest
from modelwright.compression.quantize.scaling import Scaling

Weights = Encoding | Mapping[str, Encoding | None]
"""One encoding for all layers, or encodings by pattern of their names, of which the first that fits counts."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """See :func:`~modelwright.compression.quantize.quantizing.quantize`, which has the same words.

    Attributes:
        trained: weights stay parameters, rounded where they are used.
    """

    weights: Weights = field(default_factory=Integers)
    activations: Dynamic | Static | None = None
    rounding: Rounding = field(default_factory=Nearest)
    scaling: Scaling | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    trained: bool = False

    def encoding_of(self, name: str) -> Encoding | None:
        """That of one layer."""
        if not isinstance(self.weights, Mapping):
            return self.weights
        return next((encoding for pattern, encoding in self.weights.items() if matches(name, [pattern])), None)

    def examples(self, example: Any, batches: Iterable[Any] | None) -> list[Any]:
        """All batches, or the one example.

        Raises:
            ModelwrightError: there are none, and something has to see some.
        """
        examples = list(batches) if batches is not None else []
        examples = examples or ([] if example is None else [example])
        needs = {
            "activations": isinstance(self.activations, Static),
            "rounding": self.rounding.reads,
            "scaling": self.scaling is not None,
        }
        if not examples and any(needs.values()):
            raise ModelwrightError(
                f"there are no examples, which {' and '.join(name for name in needs if needs[name])} must see",
                where="batches",
                remedy="batches=[...], each a dict of arguments by name, a tuple of arguments, or one argument",
            )
        return examples
