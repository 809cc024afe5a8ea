"""The layouts whose bytes are counted, each with the fewest with which it can be done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from communication_least import (
    Minimum,
    both,
    context,
    expert,
    factored,
    pipeline,
    replicate,
    sequential,
    shard,
    short,
    staged_shard,
    tensor,
    tensor_in_context,
)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        name: what is laid out.
        layout: sizes of the axes.
        least: bytes of a rank and step, on average over ranks.
        words: the formula.
    """

    name: str
    layout: dict[str, int]
    least: Minimum
    words: str
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    exchange: str | dict[str, Any] = "all-reduce"
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        return math.prod(self.layout.values())


_REPLICATE = "2 (K-1)/K P"
_TENSOR = "2 (K-1)/K ((4 L + 2) A + 3 T)"
_SEQUENCE = "2 (K-1)/K ((5 L + 1.5) A + 3 T), inputs of layers gathered again in the backward"
_RING = "3 (K-1)/2 L KV + 2 (K-1)/K P"
_GATHER = "3 (K-1) L KV + 2 (K-1)/K P"
_EXPERT = "4 R w + 2 (K-1)/K P' (P' without experts)"


def exchanges(ranks: int) -> list[Case]:
    layout = {"replicate": ranks}
    return [
        Case("replicate", layout, replicate, _REPLICATE),
        Case("replicate, ring", layout, replicate, _REPLICATE, exchange={"use": "ring"}),
        Case("replicate, central", layout, replicate, _REPLICATE, exchange={"use": "central"}),
        Case("replicate, bf16", layout, short, "(K-1)/K P", exchange={"use": "ring", "compression": "bf16"}),
        Case(
            "replicate, powersgd",
            layout,
            factored,
            "2 (K-1)/K x 4 x (sum of r (m + n) of matrices, n of vectors)",
            exchange={"use": "all-reduce", "compression": "powersgd"},
        ),
    ]


def sharded(ranks: int) -> list[Case]:
    words = ("(K-1)/K (P + P)", "(K-1)/K (P + M P)", "(K-1)/K M (P + B + P) (B: in blocks, gathered twice)")
    return [
        Case(f"shard, stage {stage}", {"shard": ranks}, shard(stage), text, settings={"shard": {"stage": stage}})
        for stage, text in enumerate(words, start=1)
    ]


def tensors(ranks: int) -> list[Case]:
    whole = {"tensor": {"sequence": False}}
    return [
        Case("tensor, with sequence", {"tensor": ranks}, sequential, _SEQUENCE),
        Case("tensor, sequence: false", {"tensor": ranks}, tensor, _TENSOR, settings=whole),
    ]


def contexts(ranks: int) -> list[Case]:
    layout = {"context": ranks}
    gather = {"context": {"attention": "all-gather"}}
    full = {"full": True}
    return [
        Case("context, ring, causal", layout, context("causal"), _RING),
        Case("context, ring, full", layout, context("full"), _GATHER, model=full),
        Case("context, all-gather, causal", layout, context("full"), _GATHER, settings=gather),
        Case("context, all-gather, full", layout, context("full"), _GATHER, settings=gather, model=full),
    ]


def pipelines(ranks: int) -> list[Case]:
    layout = {"pipeline": ranks}
    cases = []
    for schedule in ("gpipe", "1f1b", "looped-bfs", "interleaved-1f1b", "interleaved-zero-bubble", "zbv-zero-bubble"):
        stages = 1 if schedule in ("gpipe", "1f1b") else 2
        v = schedule == "zbv-zero-bubble"
        words = "2 (S-1) A / K, and 2 E / K" if not v else "2 (S-2) A / K (first and last stage on one rank)"
        settings, model = {"pipeline": {"schedule": schedule}}, {"layers": 4 if ranks == 2 else 8}
        cases.append(Case(f"pipeline, {schedule}", layout, pipeline(stages, v), words, settings, model=model))
    return cases


def products() -> list[Case]:
    return [
        Case(
            "replicate 2 x shard 2",
            {"replicate": 2, "shard": 2},
            both(shard(3), replicate),
            "shard's, and 2 (R-1)/R P / K",
        ),
        Case(
            "shard 2 x tensor 2",
            {"shard": 2, "tensor": 2},
            both(shard(3), tensor),
            "tensor's, and shard's of P / K",
            settings={"tensor": {"sequence": False}},
        ),
        Case(
            "replicate 2 x tensor 2",
            {"replicate": 2, "tensor": 2},
            both(replicate, tensor),
            "tensor's, and 2 (R-1)/R P / K",
            settings={"tensor": {"sequence": False}},
        ),
        Case(
            "pipeline 2 x tensor 2",
            {"pipeline": 2, "tensor": 2},
            both(pipeline(), tensor),
            "tensor's of a stage, and pipeline's",
            settings={"tensor": {"sequence": False}},
        ),
        Case(
            "pipeline 2 x shard 2",
            {"pipeline": 2, "shard": 2},
            both(pipeline(), staged_shard),
            "pipeline's, and (K-1)/K 2 P of a stage",
            settings={"shard": {"stage": 1}},
        ),
        Case(
            "context 2 x tensor 2",
            {"context": 2, "tensor": 2},
            both(context("causal"), tensor_in_context),
            "both, of half the heads and half the positions",
            settings={"tensor": {"sequence": False}},
        ),
        Case(
            "replicate 2 x expert 2",
            {"replicate": 2, "expert": 2},
            expert,
            "expert's, and experts over replicas",
            model={"experts": 8},
        ),
    ]


def cases() -> list[Case]:
    found: list[Case] = []
    for ranks in (2, 4):
        found += exchanges(ranks) + sharded(ranks) + tensors(ranks) + contexts(ranks) + pipelines(ranks)
        found.append(Case("expert", {"expert": ranks}, expert, _EXPERT, model={"experts": 8}))
    return found + products()
