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
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from communication_cases import Case, cases
from communication_least import BATCH, MICRO_BATCH, SIZES, TIME, Facts
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

STEPS = 2
SMALL = 1024  # bytes: collectives below this are bookkeeping - counts, losses, norms, flags


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
