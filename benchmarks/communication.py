"""Bytes that each layout sends in a step, beside the fewest with which it can be done.

    python benchmarks/communication.py [--cases WORDS ...] [--json FILE]

Every case forks 2 or 4 gloo ranks, lays a GPT out through ``Prepared`` as a run does, and takes real steps. What is
counted are torch's own calls: each ``c10d`` operator of the second step (the first also tells each other names), by the
ring formulas - an all-reduce of n bytes over K ranks sends ``2 (K-1)/K n`` from each, a gather or a scatter of sums
``(K-1)/K n`` of the whole - and what is sent from point to point as it is. No layout's own counter is asked. The fewest
bytes are formulas, below, of the sizes alone; only which tokens a router sends elsewhere is looked up as it happens.
Counts do not depend on the clock, nor on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.plan import Plan
from modelwright.base.world import Mesh, world
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.launch import Placement, Warm, raise_failure, start
from modelwright.models.gpt import GPT, GPTModule
from modelwright.objectives.next_token import NextToken
from modelwright.optim.sgd import SGD
from modelwright.parallel.experts.travel import Travel
from modelwright.parallel.traffic import Traffic, along
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training

SIZES: dict[str, int] = {"vocabulary": 1024, "width": 128, "heads": 4, "layers": 4}
BATCH, TIME, MICRO_BATCH, STEPS, NUMBER = 8, 128, 2, 2, 4  # NUMBER: bytes of one, float32
SMALL = 1024  # bytes: collectives below this are bookkeeping - counts, losses, norms, flags


@dataclass(frozen=True)
class Facts:
    """Sizes of a case, of which the fewest bytes are made.

    Attributes:
        ranks: along each axis.
        model: shape of each parameter by name.
        rows: that routers sent to other ranks in the step, over all ranks and layers.
    """

    ranks: dict[str, int]
    model: dict[str, tuple[int, ...]]
    rows: int = 0

    def axis(self, name: str) -> int:
        return self.ranks.get(name, 1)

    @property
    def samples(self) -> float:
        """Of one rank."""
        return BATCH / (self.axis("replicate") * self.axis("shard") * self.axis("expert"))

    @property
    def micro_batches(self) -> int:
        return max(1, math.ceil(self.samples / MICRO_BATCH))

    @property
    def residual(self) -> float:
        """Bytes of the residual stream of a rank's samples of a step."""
        return self.samples * TIME * SIZES["width"] * NUMBER

    def bytes_of(self, wanted: Callable[[str], bool] = lambda name: True) -> float:
        """Of a rank's parameters, without what tensor takes of them."""
        sizes = {name: math.prod(shape) * NUMBER for name, shape in self.model.items() if wanted(name)}
        return sum(size / (self.axis("tensor") if _is_divided(name) else 1) for name, size in sizes.items())


Minimum = Callable[[Facts], float]


def _is_divided(name: str) -> bool:
    return "norm" not in name


def reduced(ranks: int) -> float:
    return 2 * (ranks - 1) / ranks


def replicate(facts: Facts) -> float:
    return reduced(facts.axis("replicate")) * facts.bytes_of() / facts.axis("shard")


def short(facts: Facts) -> float:
    return replicate(facts) / 2


def factored(facts: Facts, rank: int = 4) -> float:
    shapes = facts.model.values()
    numbers = sum(rank * sum(shape) if len(shape) > 1 else math.prod(shape) for shape in shapes)
    return reduced(facts.axis("replicate")) * numbers * NUMBER


def shard(stage: int) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks, rounds = facts.axis("shard"), facts.micro_batches
        whole, blocks = facts.bytes_of(), facts.bytes_of(lambda name: name.startswith("blocks."))
        gathered = whole if stage < 3 else rounds * (whole + blocks)
        return (ranks - 1) / ranks * (gathered + (rounds if stage > 1 else 1) * whole)

    return bytes_sent


def tensor(facts: Facts, regathered: float = 0) -> float:
    """Of a rank's samples and, in a pipeline, of its share of the blocks."""
    stages = facts.axis("pipeline")
    sums = ((4 + regathered) * SIZES["layers"] + 2) / stages * facts.residual
    tokens = facts.samples * TIME * NUMBER / stages
    return reduced(facts.axis("tensor")) * (sums + 3 * tokens)


def context(way: str) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks = facts.axis("context")
        pair = 2 * facts.residual / ranks / facts.axis("tensor")
        hops = (ranks - 1) / 2 if way == "causal" else ranks - 1
        gradients = reduced(ranks) * facts.bytes_of()
        return 3 * hops * pair * SIZES["layers"] + gradients

    return bytes_sent


def pipeline(stages_per_rank: int = 1, v: bool = False) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks = facts.axis("pipeline")
        borders = ranks * stages_per_rank - 1 - (stages_per_rank - 1 if v else 0)
        local = facts.axis("shard")
        tied = 0 if v else 2 * facts.bytes_of(lambda name: name.startswith("embedding")) / local / ranks
        return 2 * borders * facts.residual / ranks + tied

    return bytes_sent


def expert(facts: Facts) -> float:
    ranks = facts.axis("expert")
    rest = facts.bytes_of(lambda name: not _is_expert(name))
    mine = facts.bytes_of(_is_expert) / ranks * reduced(facts.axis("replicate"))
    return (
        4 * facts.rows * SIZES["width"] * NUMBER / math.prod(facts.ranks.values())
        + mine
        + reduced(math.prod(facts.ranks.values())) * rest
    )


def _is_expert(name: str) -> bool:
    return "feed_forward." in name and "router" not in name


def both(*minima: Minimum) -> Minimum:
    return lambda facts: sum(minimum(facts) for minimum in minima)


def staged_shard(facts: Facts) -> float:
    """Stage 1 of what a stage of the pipeline holds; the tied embedding is held twice."""
    ranks, stages = facts.axis("shard"), facts.axis("pipeline")
    held = facts.bytes_of(lambda name: not name.startswith("embedding")) / stages
    held += facts.bytes_of(lambda name: name.startswith("embedding")) * 2 / stages
    return (ranks - 1) / ranks * 2 * held


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
_SEQUENCE = "2 (K-1)/K ((5 L + 2) A + 3 T), inputs of layers gathered again in the backward"
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


def sequential(facts: Facts) -> float:
    """Two gathers of a block's inputs more, which are half a sum each (Korthikanti et al. 2022, section 4.2.2)."""
    return tensor(facts, regathered=1)


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


def tensor_in_context(facts: Facts) -> float:
    return tensor(facts) / facts.axis("context")


def cases() -> list[Case]:
    found: list[Case] = []
    for ranks in (2, 4):
        found += exchanges(ranks) + sharded(ranks) + tensors(ranks) + contexts(ranks) + pipelines(ranks)
        found.append(Case("expert", {"expert": ranks}, expert, _EXPERT, model={"experts": 8}))
    return found + products()


class Full(GPTModule):
    """The same, and every position sees all others."""

    def _seen(self, segments: Tensor | None) -> list[Any]:
        return [torch.ones(1, 1, TIME, TIME, dtype=torch.bool)] * len(self.blocks)


def build(full: bool = False, **settings: Any) -> nn.Module:
    torch.manual_seed(1)
    config = GPT(**(SIZES | settings))
    return Full(config, SIZES["vocabulary"]) if full else config.build()


def training(case: Case) -> Training:
    tokens = torch.randint(SIZES["vocabulary"], (4 * BATCH, TIME + 1), generator=torch.Generator().manual_seed(7))
    data = InMemory({"inputs": tokens[:, :-1], "targets": tokens[:, 1:].clone()})
    return Training(
        model=build(**case.model),
        data=Splits(train=data, held_out=None),
        objective=NextToken(),
        optimizer=SGD(lr=0.01),
        batch=BATCH,
        seed=3,
        budget=Budget(steps=STEPS),
    )


def prepared(case: Case, mesh: Mesh) -> Prepared:
    plan = Plan(
        workers=mesh.size,
        layout=case.layout,
        layouts=case.settings,
        exchange=case.exchange,
        micro_batch=MICRO_BATCH,
        precision="fp32",
        steps=STEPS,
    )
    return Prepared(training(case), plan, mesh)


class Routed:
    """Counts rows that routers send to other ranks."""

    def __init__(self) -> None:
        self.rows = 0
        self._call = Travel.__call__

    def __enter__(self) -> Routed:
        call = self._call

        def counted(travel: Travel, rows: Tensor, sizes: Tensor, compute: Any) -> Tensor:
            leaving = sizes.view(travel.group.size, -1).sum(1)
            self.rows += int(leaving.sum() - leaving[travel.group.rank])
            return call(travel, rows, sizes, compute)

        Travel.__call__ = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Travel.__call__ = self._call  # type: ignore[method-assign]


def measured(mesh: Mesh, case: Case) -> dict[str, Any]:
    """What this rank sent in the last step: bytes of large collectives by kind and axes, of small ones, rows."""
    made = prepared(case, mesh)
    with Traffic() as traffic, Routed() as routed:
        steps = made.steps(lambda: False)
        for _ in range(STEPS - 1):
            next(steps)
        before, rows = len(traffic.sent), routed.rows
        next(steps)
    large: dict[str, float] = {}
    small = 0.0
    for sent in traffic.sent[before:]:
        if sent.bytes < SMALL:
            small += sent.bytes
            continue
        key = f"{sent.kind} {'+'.join(along(mesh, sent.members))}"
        large[key] = large.get(key, 0.0) + sent.bytes
    return {"large": large, "small": small, "rows": routed.rows - rows}


def rank_main(arguments: list[str]) -> None:
    folder, name, ranks = Path(arguments[0]), arguments[1], int(arguments[2])
    case = next(each for each in cases() if each.name == name and each.ranks == ranks)
    with world(case.layout, device="cpu", timeout=120, joining=60) as mesh:
        found = measured(mesh, case)
    (folder / f"{mesh.rank}.json").write_text(json.dumps(found))


def counted(case: Case, warm: Warm) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        placement = Placement(workers=case.ranks, threads=1, start="fork")
        arguments = [folder, case.name, str(case.ranks)]
        with start("communication:rank_main", arguments, placement, logs=Path(folder), warm=warm) as job:
            status = job.wait(300)
        if status.failure:
            raise_failure(status.failure)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(case.ranks)]


def row(case: Case, found: list[dict[str, Any]]) -> dict[str, Any]:
    sums = [sum(rank["large"].values()) + rank["small"] for rank in found]
    shapes = {name: tuple(parameter.shape) for name, parameter in build(**case.model).named_parameters()}
    facts = Facts(case.layout, shapes, sum(rank["rows"] for rank in found))
    least, mean = case.least(facts), sum(sums) / len(sums)
    return {
        "name": case.name,
        "ranks": case.ranks,
        "ratio": mean / least,
        "least": least,
        "mean": mean,
        "max": max(sums),
        "small": max(rank["small"] for rank in found),
        "words": case.words,
        "kinds": found[0]["large"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help="words of which a case's name has one")
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = [each for each in cases() if each.ranks in arguments.ranks]
    chosen = [each for each in chosen if not arguments.cases or any(word in each.name for word in arguments.cases)]
    rows = []
    print("| ratio | layout | K | least | sent: mean | sent: max | of it small | least, in words |")
    print("|-|-|-|-|-|-|-|-|")
    warm = Warm(("torch", "torch.distributed.tensor", "torch._dynamo", "communication"))
    try:
        for case in chosen:
            try:
                one = row(case, counted(case, warm))
            except Exception as error:
                print(f"| - | {case.name} | {case.ranks} | {str(error)[-1500:]} |", flush=True)
                continue
            rows.append(one)
            print(
                f"| {one['ratio']:.3f} | {one['name']} | {one['ranks']} | {one['least']:,.0f} | {one['mean']:,.0f} | "
                f"{one['max']:,.0f} | {one['small']:,.0f} | {one['words']} |",
                flush=True,
            )
            if one["ratio"] > 1.05:
                print("    ", one["kinds"])
    finally:
        warm.close()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
