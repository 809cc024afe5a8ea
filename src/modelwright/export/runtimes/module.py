"""The model itself in torch, eager or compiled: what files are compared with. No file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modelwright.export.call import Call
from modelwright.export.runtimes.computing import computing
from modelwright.export.runtimes.inputs import inputs_of
from modelwright.export.signature import Signature, flat


class ModuleRunner:
    """A module that computes like an opened file.

    Args:
        model: on the CPU; put into evaluation mode.
        call: how it is called.
        signature: of a file of it.
        threads: that compute; ``None``: as many as torch has at the time.
        precision: ``fp32``, or ``bf16`` by autocast.
        compiled: by torch.compile, at the first run.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Call,
        signature: Signature,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.signature = signature
        self._call, self._threads, self._precision = call, threads, precision
        self._model = torch.compile(model.eval()) if compiled else model.eval()

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; see :class:`~modelwright.export.runtimes.Runner`."""
        inputs = inputs_of(self.signature, batch, "the model")
        places, names = self._call.arguments(dict(zip(self._call.tensors, inputs, strict=True)))
        with computing(self._threads, self._precision):
            found = flat(self._model(*places, **names))[1].values()
        return {slot.name: each for slot, each in zip(self.signature.outputs, found, strict=True)}
