"""An exported file in the place of a module: objectives and metrics call it as they call the model."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from modelwright.export.runtimes import Runner
from modelwright.export.signature import structured


class FileModule(nn.Module):
    """Answers as the exported model did; it has no parameters and no gradients.

    Its ``forward`` takes the file's inputs by place and by name, and what was built into the file is not asked for.

    Args:
        runner: the opened file.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        taken = [
            inspect.Parameter(slot.name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for slot in runner.signature.inputs
        ]
        self._taken = inspect.Signature(taken)

        def forward(*places: Any, **names: Any) -> Any:
            return self._answer(places, names)

        forward.__signature__ = self._taken  # type: ignore[attr-defined]  # objectives ask which arguments there are
        self.forward = forward

    def _answer(self, places: tuple[Any, ...], names: dict[str, Any]) -> Any:
        tensors = {name: value for name, value in names.items() if isinstance(value, Tensor)}
        bound = self._taken.bind(*(each for each in places if isinstance(each, Tensor)), **tensors)
        outputs = self.runner.run(bound.arguments)
        return structured(self.runner.signature.structure, outputs)
