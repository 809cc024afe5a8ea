"""Quantize: layers of any module that hold their weight in fewer bits, and multiply integers where they can."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.compression.quantize.asking import Asked, Weights
from modelwright.compression.quantize.choosing import choose, listed
from modelwright.compression.quantize.encoding import Integers
from modelwright.compression.quantize.found import find
from modelwright.compression.quantize.inputs import Dynamic, Static
from modelwright.compression.quantize.making import Numbers, edits_for, rounded_inputs, seen_moments
from modelwright.compression.quantize.measuring import receipt_of
from modelwright.compression.quantize.result import Quantized
from modelwright.compression.quantize.rounding import Rounding
from modelwright.compression.quantize.rounding.nearest import Nearest
from modelwright.compression.quantize.scaling import Scaling
from modelwright.models.change import Change
from modelwright.reforms.moments import Forward


def quantize(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    weights: Weights | None = None,
    activations: Dynamic | Static | None = None,
    rounding: Rounding | None = None,
    scaling: Scaling | None = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Quantized:
    """Encode the weights of linear layers, convolutions and embeddings, and perhaps what they read.

    The file is smaller; here in torch the model is mostly slower, as weights are decoded where they are used. With
    ``activations`` linear layers multiply integers on a CPU, which pays on some machines for many rows. The receipt has
    the milliseconds measured on the example; speed comes with ONNX, of static ranges, see ``docs/quantize.md``. What
    has a matrix and cannot be encoded, and what would not be smaller, is left alone and listed. Tied weights stay tied.

    Args:
        model: any module with weights; it is not altered.
        example_inputs: a dict of arguments by name, a tuple of arguments, or one argument, where ``batches`` are not
            given; with an example the receipt has milliseconds.
        weights: the encoding of all layers, or by pattern of their names, of which the first that fits counts; layers
            that none fits, or ``None``, are left alone. By default 8 bits, symmetric, a scale for each channel.
        activations: how what layers read is rounded, to 8 bits; ``None``: not at all.
        rounding: which integers stand for a weight; by default the nearest.
        scaling: moves size between the channels of neighbouring layers before anything is rounded.
        batches: examples, each as ``example_inputs``, for what has to see some; a hundred sequences or images do. They
            are kept in memory.
        forward: of ``(model, example)``, where an example is not simply the model's arguments.
        include: patterns of names of layers; empty for all.
        exclude: patterns of names of layers to leave alone.

    Raises:
        ModelwrightError: no layer can be encoded; a pattern fits nothing; or examples are missing or cannot be used.
    """
    asked = Asked(
        weights=weights or Integers(),
        activations=activations,
        rounding=rounding or Nearest(),
        scaling=scaling,
        include=include,
        exclude=exclude,
    )
    return carry_out(model, asked, asked.examples(example_inputs, batches), forward)


def quantize_for_training(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    weights: Weights | None = None,
    activations: Dynamic | Static | None = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Quantized:
    """The same layers with weights that can be trained, rounded where they are used: quantization-aware training.

    Train ``model`` of the result as any other, then :func:`finish` it. Arguments are those of :func:`quantize`; static
    ranges are those of the examples, and stay as they are.

    Raises:
        ModelwrightError: as of :func:`quantize`.
    """
    asked = Asked(
        weights=weights or Integers(), activations=activations, include=include, exclude=exclude, trained=True
    )
    return carry_out(model, asked, asked.examples(example_inputs, batches), forward)


def carry_out(model: nn.Module, asked: Asked, examples: Sequence[Any], forward: Forward | None) -> Quantized:
    """What was asked, with ``examples`` in memory."""
    _check(model)
    altered = copy.deepcopy(model)
    found = find(altered, include=asked.include, exclude=asked.exclude)
    encodings, left = choose(altered, found, asked)
    facts: dict[str, Any] = {"examples": len(examples)}
    if asked.scaling is not None:
        facts["scaled"] = asked.scaling.scale(altered, encodings, examples, forward)
    moments = seen_moments(altered, encodings, asked, examples, forward)
    inputs = rounded_inputs(altered, encodings, asked, examples, forward)
    numbers = Numbers(altered, list(encodings))
    edits = edits_for(altered, encodings, inputs, found.tied, trained=asked.trained)
    change = Change(kind="quantized-for-training" if asked.trained else "quantized", edits=tuple(edits), facts=facts)
    change.apply(altered)
    layers = numbers.fill(altered, asked.rounding, moments)
    if left:
        emit("layers-not-quantized", f"{len(left)} layers are left alone: {listed(left)}", layers=left)
    timed = None if asked.trained or not examples else examples[0]
    receipt = receipt_of(model, altered, timed, forward)
    return Quantized(model=altered, change=change, receipt=receipt, layers=tuple(layers), left_alone=left)


def _check(model: nn.Module) -> None:
    if any(each.is_meta for each in model.parameters()):
        raise ModelwrightError(
            "the weights have no content: the model is on the meta device", remedy="load its weights first"
        )
