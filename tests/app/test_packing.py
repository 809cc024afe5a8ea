"""Training on documents that are kept apart, from the data to the score."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command import TEXT, invoke, write_recipe
from torch import Tensor, nn
from torch.nn import functional

import modelwright as mw
from modelwright.data.batches import read
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.byte import Byte
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.planning.request import PlanRequest

SEPARATE = TEXT | {
    "data": "{use: text-files, files: ['*.txt'], context: 16, held_out: 0.3, tokenizer: byte, documents: separate}"
}


@torch.no_grad()
def bits_per_byte_alone(model: nn.Module, tokens: np.ndarray, starts: np.ndarray, context: int) -> float:
    """Windows cut by hand, and each document's part in a window read in a forward pass of its own."""
    nats, scored = 0.0, 0
    for first in range(0, len(tokens) - 1, context):
        last = min(first + context, len(tokens) - 1)
        cuts = [first, *(int(start) for start in starts if first < start < last), last]
        for begin, end in pairwise(cuts):
            part = torch.from_numpy(tokens[begin : end + 1].astype(np.int64))
            nats += float(functional.cross_entropy(model(part[None, :-1])[0].double(), part[1:], reduction="sum"))
            scored += end - begin
    assert scored == len(tokens) - 1
    return nats / math.log(2) / int((tokens < 256).sum())


@pytest.mark.parametrize("plan", [{}, {"recompute": "full", "attention": "explicit"}], ids=str)
def test_training_and_score_keep_documents_apart(plan: dict[str, str]) -> None:
    write_recipe(TEXT)
    data = TextFiles(files=("*.txt",), context=64, held_out=0.5, tokenizer=Byte(), documents="separate")
    folder = data.prepare(mw.data_cache())
    torch.manual_seed(0)
    model = GPT(vocabulary=257, layers=2, width=16, heads=2).build()
    asked = PlanRequest(measure=False, **plan)  # type: ignore[arg-type]
    result = mw.train(
        model,
        data.open(folder),
        objective=NextToken(),
        optimizer=AdamW(lr=0.03),
        budget="60 steps",
        batch=4,
        evaluation=mw.Evaluation(metrics=("bits-per-byte",)),
        plan=asked,
        quiet=True,
    )
    held_out = Indexed(folder / "held_out")
    expected = bits_per_byte_alone(model.eval(), held_out.tokens, held_out.document_starts, 64)
    assert result.scores["bits-per-byte"] == pytest.approx(expected, rel=1e-5)
    joined = bits_per_byte_alone(model, held_out.tokens, np.array([]), 64)
    assert abs(joined - expected) > 1e-3 * expected  # the test can fail


def test_a_step_gives_the_gradient_of_documents_alone() -> None:
    """What training sees, not only what scoring does."""
    write_recipe(TEXT)
    data = TextFiles(files=("*.txt",), context=64, held_out=0, tokenizer=Byte(), documents="separate")
    splits = data.open(data.prepare(mw.data_cache()))
    batch = read(splits.train, range(len(splits.train)))
    assert int(batch["segments"].max()) > 0
    torch.manual_seed(0)
    model = GPT(vocabulary=257, layers=1, width=16, heads=2).build().double()
    total = NextToken().loss(NextToken().forward(model, batch), batch)["cross-entropy"]
    found = torch.autograd.grad(total, list(model.parameters()))
    total = torch.zeros((), dtype=torch.float64)
    for inputs, targets, segments in zip(batch["inputs"], batch["targets"], batch["segments"], strict=True):
        for number in segments.unique():
            part: Tensor = segments == number
            total = total + functional.cross_entropy(model(inputs[part][None])[0], targets[part], reduction="sum")
    for mine, reference in zip(found, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-10)


def test_the_command_trains_on_two_workers() -> None:
    fields = SEPARATE | {"plan": "{measure: false, workers: 2, threads: 1, precision: bf16}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "apart")
    assert outcome.code == 0, outcome.err


def test_a_model_that_mixes_documents_is_refused_before_a_run_begins() -> None:
    pytest.importorskip("transformers")
    config = "{model_type: mamba, hidden_size: 16, state_size: 4, num_hidden_layers: 1}"
    fields = SEPARATE | {"model": f"{{use: transformers, config: {config}, attention: eager}}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "mixed")
    assert outcome.code == 2
    assert "cannot: its forward takes neither 'segments' nor 'position_ids'" in outcome.err
    assert "data.documents to joined" in outcome.err
    assert not Path("runs/mixed").exists()
