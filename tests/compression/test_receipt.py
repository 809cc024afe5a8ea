"""Receipts count what a model holds, and are plain data."""

from __future__ import annotations

import json

import torch
from torch import nn

from modelwright.compression.receipt import Receipt, count_bytes, count_parameters, receipt_of


def test_a_receipt_is_plain_data_and_readable() -> None:
    before, after = nn.Linear(8, 4), nn.Linear(4, 4).half()
    receipt = receipt_of("prune", before, after, milliseconds=(2.0, 1.0), metric=(0.9, 0.8), metric_name="accuracy")
    assert receipt.parameters == (36, 20)
    assert receipt.bytes == (144, 40)
    assert Receipt.from_json(json.loads(json.dumps(receipt.to_json()))) == receipt
    text = str(receipt)
    assert "36 -> 20  (1.80x less)" in text
    assert "accuracy" in text
    assert "undone, too slow" in str(receipt_of("prune", before, before, undone="too slow"))


def test_a_tied_tensor_counts_once() -> None:
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    assert count_parameters(model) == 32
    model[1].weight = model[0].weight
    model.register_buffer("seen", torch.zeros(3))
    assert (count_parameters(model), count_bytes(model)) == (16, 4 * 16 + 4 * 3)
