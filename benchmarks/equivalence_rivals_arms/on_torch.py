"""Hand-written data parallelism: once right, and as negative controls with what such loops get wrong."""

from __future__ import annotations

import math

import job
import torch
import torch.distributed as dist
from torch import nn

SETTINGS = ("sums over the global count", "control: reduction dropped", "control: mean of means")


def train(cell: job.Cell) -> job.Outcome:
    dist.init_process_group("gloo")
    model, outcome = job.model(cell.condition), job.Outcome()
    optimizer, sequences = job.sgd(model.parameters()), job.Sequences(cell.condition)
    for step in range(job.STEPS):
        outcome.losses.append(_backward(cell, model, sequences, step))
        if cell.setting != SETTINGS[1]:
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
        norm = nn.utils.clip_grad_norm_(model.parameters(), cell.condition.clip or math.inf)
        outcome.norms.append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    outcome.weights = model.state_dict()
    return outcome


def _backward(cell: job.Cell, model: nn.Module, sequences: job.Sequences, step: int) -> float:
    """Gradients of this rank's part; the loss of the whole."""
    parts = cell.world * cell.condition.accumulation
    numbers = range(dist.get_rank() * cell.condition.accumulation, (dist.get_rank() + 1) * cell.condition.accumulation)
    starts = [step * job.BATCH + number * cell.micro_batch for number in numbers]
    batches = [sequences.batch(start, start + cell.micro_batch) for start in starts]
    count = torch.stack([job.valid(batch) for batch in batches]).sum()
    dist.all_reduce(count)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        with job.autocast(cell.condition):
            found = job.loss(model(batch["input_ids"]).logits, batch, "sum")
            found = found / (job.valid(batch) * parts if cell.setting == SETTINGS[2] else count)
        found.backward()
        total += found.detach()
    dist.all_reduce(total)
    return total.item()
