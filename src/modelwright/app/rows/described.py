"""What a model's outputs say about each sample, by objective."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.app.rows.files import Row
from modelwright.base.errors import ModelwrightError
from modelwright.data import Splits
from modelwright.objectives.binary import Binary
from modelwright.objectives.calling import logits_of
from modelwright.objectives.classification import Classification
from modelwright.objectives.fields import IGNORED, widened
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.reading import cross_entropies
from modelwright.objectives.regression import Regression
from modelwright.objectives.sequence_to_sequence import SequenceToSequence

if TYPE_CHECKING:
    from modelwright.data import Batch


@singledispatch
def describe(objective: object, outputs: Any, batch: Batch, data: Splits) -> list[Row]:
    """One row for each sample of ``batch``; for objectives that are not known here the ``output`` itself.

    Args:
        objective: of the run.
        outputs: what its forward returned.
        batch: what the model read; its targets, where it has any.
        data: names of classes, units of numbers, bytes of tokens.

    Raises:
        ModelwrightError: the outputs are not one for each sample.
    """
    samples = len(next(iter(batch.values())))
    if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) != samples:
        raise ModelwrightError(
            f"the outputs of {type(objective).__name__} are not one for each sample",
            where="objective",
            remedy="call modelwright.predict(model, data) from Python, and read the outputs there",
        )
    return [{"output": value} for value in outputs.tolist()]


@describe.register(Classification)
def _classes(objective: Classification, outputs: Any, batch: Batch, data: Splits) -> list[Row]:
    logits = logits_of(outputs)
    shares = widened(logits).softmax(-1).amax(-1)
    classes = _decoded(logits, data) or _named(logits.argmax(-1), data)
    rows = [{"class": name, "probability": share} for name, share in zip(classes, shares.tolist(), strict=True)]
    targets = batch.get(objective.target)
    if targets is None or (targets == IGNORED).all():
        return rows
    known = functional.one_hot(targets.clamp(min=0).long(), logits.size(-1))
    names = _decoded(known, data) or _named(targets, data)
    ignored = (targets == IGNORED).flatten(1).all(1) if targets.dim() > 1 else targets == IGNORED
    return [
        row | {"target": None if without else name}
        for row, name, without in zip(rows, names, ignored.tolist(), strict=True)
    ]


@describe.register(Regression)
def _values(objective: Regression, outputs: Any, batch: Batch, data: Splits) -> list[Row]:
    values = _decoded(outputs, data) or outputs.tolist()
    rows = [{"value": value} for value in values]
    targets = batch.get(objective.target)
    if targets is None or bool(targets.isnan().all()):
        return rows
    known = _decoded(targets, data) or targets.tolist()
    return [row | {"target": value} for row, value in zip(rows, known, strict=True)]


@describe.register(Binary)
def _answers(objective: Binary, outputs: Any, batch: Batch, data: Splits) -> list[Row]:
    shares = widened(outputs).sigmoid()
    rows = [
        {"answer": answer, "probability": share}
        for answer, share in zip((shares > 0.5).tolist(), shares.tolist(), strict=True)
    ]
    targets = batch.get(objective.target)
    if targets is None or bool((targets == IGNORED).all()):
        return rows
    return [row | {"target": value} for row, value in zip(rows, targets.tolist(), strict=True)]


@describe.register(NextToken)
@describe.register(SequenceToSequence)
def _losses(objective: NextToken | SequenceToSequence, outputs: Any, batch: Batch, data: Splits) -> list[Row]:
    targets = batch["targets"].long()
    nats = cross_entropies(outputs, targets, "prediction").double().sum(1)
    columns = {"nats": nats, "tokens": (targets != IGNORED).sum(1)}
    if data.tokenizer is not None:
        sizes = torch.from_numpy(data.tokenizer.token_bytes()).to(targets.device)
        columns["bytes"] = (sizes[targets.clamp(min=0)] * (targets != IGNORED)).sum(1)
    if "record" in batch:
        columns["record"] = batch["record"]
    return [dict(zip(columns, values, strict=True)) for values in zip(*map(_list, columns.values()), strict=True)]


def scored(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows of totals of a language model as losses; windows of one record become one row."""
    for _, parts in groupby(enumerate(rows), key=lambda numbered: numbered[1].get("record", numbered[0])):
        windows = [row for _, row in parts]
        nats, tokens, size = (sum(row.get(name, 0) for row in windows) for name in ("nats", "tokens", "bytes"))
        row: Row = {"loss": nats / tokens if tokens else None, "tokens": tokens}
        if "bytes" in windows[0]:
            row["bits_per_byte"] = nats / math.log(2) / size if size else None
        yield row


def _named(numbers: Tensor, data: Splits) -> list[Any]:
    """Classes by the names that the data has for them."""
    listed: list[Any] = numbers.tolist()
    if not data.classes or numbers.dim() != 1:
        return listed
    return [data.classes[number] if 0 <= number < len(data.classes) else number for number in listed]


def _decoded(outputs: Tensor, data: Splits) -> list[Any] | None:
    """In the words and units of the data, where it knows them."""
    return data.encoder.decode(outputs) if data.encoder is not None else None


def _list(values: Tensor) -> list[Any]:
    listed: list[Any] = values.tolist()
    return listed
