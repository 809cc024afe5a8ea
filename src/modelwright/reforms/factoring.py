"""Put factors in the place of a model's layers, as a recorded change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modelwright.models.change import Change, Replace
from modelwright.reforms.factors import (
    Factored,
    largest_rank,
    parameters_of,
    parameters_per_rank,
    set_factors,
    whole_matrix,
    whole_shape,
)
from modelwright.reforms.moments import Moments
from modelwright.reforms.ranks import Options
from modelwright.reforms.spectrum import Spectrum, factors_of, mean_error, spectrum_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What is known of a layer before its rank is chosen.

    Attributes:
        options: what it may become, and what that costs.
        spectrum: from which its factors are made.
        mean: of what it reads, where its bias is to make up for the mean error.
    """

    options: Options
    spectrum: Spectrum
    mean: Tensor | None


def study(model: nn.Module, name: str, moments: Moments | None = None, *, multiple: int = 1) -> Study:
    """Find out what ranks of a layer cost.

    Args:
        model: that has it.
        name: of the layer, factored or not.
        moments: of what it reads; ``None``: all that it may read counts alike.
        multiple: of what number ranks are multiples.
    """
    layer: Any = model.get_submodule(name)
    groups, outputs, columns = whole_shape(layer)
    centred = moments is not None and layer.bias is not None
    spectrum = spectrum_of(whole_matrix(layer), moments, centred=centred)
    options = Options(
        name=name,
        parameters=parameters_of(layer),
        whole=groups * outputs * columns,
        per_rank=parameters_per_rank(layer),
        losses=_up_to(spectrum.losses(), largest_rank(layer)),
        multiple=multiple,
    )
    # Higher ranks are never asked for.
    shorter = Spectrum(spectrum.energies, spectrum.directions[..., : max(options.ranks(), default=0)].clone())
    return Study(options=options, spectrum=shorter, mean=moments.mean if moments and centred else None)


def factor(model: nn.Module, studies: Mapping[str, Study], ranks: Mapping[str, int | None], **facts: Any) -> Change:
    """Factor layers of ``model`` in place; weights follow those that it has.

    Args:
        model: altered.
        studies: by layer.
        ranks: by layer; ``None``: it becomes or stays one matrix.
        facts: of the change, JSON-ready.

    Returns:
        What was done, to be made again on another copy of the source.
    """
    edits = []
    for name, rank in ranks.items():
        old: Any = model.get_submodule(name)
        if rank is not None:
            edits.append(Replace(module=name, by="factored", arguments={"rank": rank}))
            edits[-1].apply(model)
            _fill(model.get_submodule(name), old, studies[name], rank)
        elif isinstance(old, Factored) and studies[name].options.whole <= studies[name].options.parameters:
            edits.append(Replace(module=name, by="merged"))
            edits[-1].apply(model)
    return Change(kind="factored", edits=tuple(edits), facts=facts)


def _fill(new: Any, old: Any, known: Study, rank: int) -> None:
    matrix = whole_matrix(old)
    first, second = factors_of(matrix, known.spectrum, rank)
    bias = None if old.bias is None else old.bias.detach().double()
    if bias is not None and known.mean is not None:
        bias = bias + mean_error(matrix, first, second, known.mean)
    set_factors(new, first, second, bias)


def _up_to(losses: Tensor, rank: int) -> Any:
    """Nothing is lost at the largest rank, up to rounding, which would look like a loss."""
    kept = losses[: rank + 1].clone()
    kept[-1] = 0.0
    return kept.cpu().numpy()
