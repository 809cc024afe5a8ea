"""``torch.compile`` by region: each repeated block on its own, so that one compilation serves all of them."""

from __future__ import annotations

from torch import nn

from modelwright.parallel.regions import regions


def compile_regions(model: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile the repeated blocks of ``model`` in place, or all of it where it has none; names stay.

    The work is done in the first step. Blocks of one class and shape share their code.

    Args:
        model: any module.
        backend: of torch.compile.

    Returns:
        Names of the compiled modules; the empty name is the model itself.
    """
    names = list(regions(model)) or [""]
    for name in names:
        model.get_submodule(name).compile(backend=backend)
    return names
