"""What a model makes of a batch on its way: outputs of modules by name, queries, keys and values of attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from modelwright.base.errors import ModelwrightError, nearest

Attention = tuple[Tensor, Tensor, Tensor]


@dataclass(eq=False)
class Seen:
    """One forward pass, as it was seen.

    Attributes:
        outputs: of the objective's forward.
        hidden: outputs of modules by name.
        attention: query, key and value ``[batch, heads, time, width]`` of each attention, in order.
    """

    outputs: Any = None
    hidden: dict[str, Tensor] = field(default_factory=dict)
    attention: list[Attention] = field(default_factory=list)

    @property
    def logits(self) -> Any:
        """Those of the outputs, for who reads them."""
        logits = getattr(self.outputs, "logits", self.outputs)
        return logits() if callable(logits) and not isinstance(logits, Tensor) else logits


@contextmanager
def seeing(model: nn.Module, modules: Sequence[str], attention: bool) -> Iterator[Seen]:
    """Inside, note what passes; what a backward pass computes anew is not noted again, as it comes later.

    Raises:
        ModelwrightError: there is no module of a name.
    """
    seen, named = Seen(), dict(model.named_modules())
    with ExitStack() as stack:
        for name in modules:
            if name not in named:
                raise ModelwrightError(f"the model has no module '{name}'", remedy=nearest(name, named))
            handle = named[name].register_forward_hook(_noting(seen.hidden, name))
            stack.callback(handle.remove)
        if attention:
            stack.enter_context(_Watching(seen.attention))
        yield seen


class _Watching(TorchFunctionMode):
    """Notes what is attended to."""

    def __init__(self, attention: list[Attention]) -> None:
        super().__init__()
        self._attention = attention

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
            self._attention.append((named["query"], named["key"], named["value"]))
        return func(*args, **kwargs)


def _noting(hidden: dict[str, Tensor], name: str) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        found = output if isinstance(output, Tensor) else _first(output)
        if found is None:
            raise ModelwrightError(
                f"the module '{name}' returns a {type(output).__name__} without a tensor",
                remedy="name a module that returns a tensor, or begins with one",
            )
        hidden[name] = found

    return note


def _first(output: Any) -> Tensor | None:
    """The tensor that a tuple or an output object begins with."""
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)
