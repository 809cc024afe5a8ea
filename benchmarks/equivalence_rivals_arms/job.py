"""The job that every trainer of ``equivalence_rivals.py`` is given, and the plain loop that it is compared with.

A Llama of 2 layers in float64 (float32 under autocast and in FSDP1, whose clipping knows nothing else), 4 steps of 8
sequences, SGD: a gradient that is too large or too small cannot hide in it, as it could in Adam. What is minimised is
the sum of the losses of all valid targets of a step, divided by their number.
"""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from modelwright.models.gpt import GPT

VOCABULARY, TIME, BATCH, STEPS, RATE, CLIP = 64, 16, 8, 4, 0.3, 0.4
IGNORED = -100
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Condition:
    """What is varied beside the layout."""

    accumulation: int = 1
    unequal: bool = False  # valid targets of the samples, so of micro-batches and ranks too
    tied: bool = False
    clipped: bool = False
    autocast: bool = False
    single: bool = False  # float32, for layouts that cannot do with float64
    experts: bool = False  # of another model, as Llama has none

    @property
    def clip(self) -> float | None:
        return CLIP if self.clipped else None

    @property
    def data_type(self) -> torch.dtype:
        return torch.float32 if self.autocast or self.single else torch.float64


CONDITIONS = {
    "plain": Condition(),
    "accumulation": Condition(accumulation=2),
    "unequal targets": Condition(unequal=True),
    "accumulation, unequal": Condition(accumulation=2, unequal=True),
    "tied, clipped": Condition(tied=True, clipped=True),
    "all of these": Condition(accumulation=2, unequal=True, tied=True, clipped=True),
    "bf16 autocast": Condition(autocast=True),
}


@dataclass(frozen=True)
class Cell:
    """One training: the layout and setting of an arm under a condition."""

    layout: dict[str, int]
    setting: str
    condition: Condition

    @property
    def world(self) -> int:
        return math.prod(self.layout.values())

    @property
    def data(self) -> int:
        """Ranks with different samples."""
        return math.prod(self.layout.get(axis, 1) for axis in ("replicate", "shard", "expert"))

    def size(self, axis: str) -> int:
        return self.layout.get(axis, 1)

    @property
    def micro_batch(self) -> int:
        return BATCH // (self.data * self.condition.accumulation)


@dataclass
class Outcome:
    """What a training reported, and what became of the weights."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    held: float = 1.0  # part of the parameters' elements that this rank held


class Sequences(Dataset):  # type: ignore[type-arg]
    """Random tokens; of the targets of each sequence all are valid, or the first few."""

    def __init__(self, condition: Condition) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCABULARY, (BATCH * STEPS, TIME), generator=generator)
        self.labels = self.tokens.clone()
        if condition.unequal:
            valid = torch.randint(1, TIME, (len(self), 1), generator=generator)
            self.labels[torch.arange(TIME) > valid] = IGNORED

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Batch:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}

    def batch(self, start: int, stop: int) -> Batch:
        return {"input_ids": self.tokens[start:stop], "labels": self.labels[start:stop]}


def configuration(condition: Condition) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * TIME,
        tie_word_embeddings=condition.tied,
        initializer_range=0.2,
        use_cache=False,
        attn_implementation="sdpa",
    )


def model(condition: Condition) -> Any:
    """The model with its first weights, the same at each call."""
    torch.manual_seed(0)
    if condition.experts:
        return mixture(condition)
    made = LlamaForCausalLM(configuration(condition)).to(condition.data_type)
    made.config.dtype = condition.data_type
    return made


def mixture(condition: Condition) -> nn.Module:
    """Four experts, of which each token has two; without a loss that balances them, which the plain loop lacks."""
    sizes = {"vocabulary": VOCABULARY, "width": 32, "heads": 4, "layers": 2, "hidden": 64, "experts": 4}
    made = GPT(**sizes, balance=0.0, tied_embeddings=condition.tied).build()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return made.to(condition.data_type)


def saved(condition: Condition) -> str:
    """The folder with the same first weights, for what is to be loaded."""
    folder = Path(os.environ["EQUIVALENCE_MODELS"]) / f"{condition.data_type}-{condition.tied}"
    if not folder.exists():
        model(condition).save_pretrained(folder)
    return str(folder)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE)


def valid(batch: Batch) -> Tensor:
    """How many targets are to be predicted."""
    return (batch["labels"][:, 1:] != IGNORED).sum()


def loss(logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
    """Of the next token, over the valid targets."""
    predicted, targets = logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    return functional.cross_entropy(predicted, targets, ignore_index=IGNORED, reduction=reduction)


def logits(outputs: Any) -> Tensor:
    found: Tensor = getattr(outputs, "logits", outputs)
    return found


def autocast(condition: Condition) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if condition.autocast else nullcontext()


def reference(condition: Condition) -> Outcome:
    """One process, whole batches."""
    sequences, made, outcome = Sequences(condition), model(condition), Outcome()
    optimizer = sgd(made.parameters())
    for step in range(STEPS):
        batch = sequences.batch(step * BATCH, (step + 1) * BATCH)
        with autocast(condition):
            found = loss(logits(made(batch["input_ids"])), batch, "sum") / valid(batch)
        found.backward()
        norm = nn.utils.clip_grad_norm_(made.parameters(), condition.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        outcome.losses.append(found.item())
        outcome.norms.append(norm.item())
    outcome.weights = made.state_dict()
    return outcome


def whole(named: Any) -> dict[str, Tensor]:
    """Tensors gathered where they are divided; a collective."""
    gathered = ((name, value.full_tensor() if hasattr(value, "full_tensor") else value) for name, value in named)
    return {name: value.detach().clone() for name, value in gathered}


def summoned(module: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a module wrapped by FSDP1."""
    with FullyShardedDataParallel.summon_full_params(module, writeback=False):
        named = whole(module.named_parameters())
    return {name.replace("_fsdp_wrapped_module.", ""): value for name, value in named.items()}


def held(module: nn.Module, condition: Condition) -> float:
    """Part of the parameters' elements that this rank holds."""
    local = sum(_numbers(getattr(value, "_local_tensor", value).detach()) for value in module.parameters())
    return local / sum(value.numel() for value in model(condition).parameters())


def _numbers(tensor: Tensor) -> int:
    """Those that take memory: a stand-in for what another stage holds is one number, seen many times."""
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())
