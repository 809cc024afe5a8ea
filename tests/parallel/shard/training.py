"""Small trainings, sharded and in one process, step by step."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.choice import import_path
from modelwright.base.world import Mesh
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.optim.clipping import clip_
from modelwright.optim.sgd import SGD
from modelwright.parallel import LAYOUTS
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.exchanges.ring import Ring
from modelwright.parallel.laying import lay_out
from modelwright.parallel.layouts.replicate import Replicate
from modelwright.parallel.layouts.shard import Shard
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import set_recompute
from modelwright.training.gathering import gather_model

VOCABULARY, TIME, SAMPLES, STEPS = 11, 4, 6, 3
LAID_OUT = ("stage", "prefetch", "offload", "shares", "spoiled", "ring")
OPTIMIZERS = {
    "adamw": AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    "sgd": SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
}


class Layer(nn.Module):
    """Scalars, a norm's buffer, and a part that only some samples use."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.seldom = nn.Linear(width, width, bias=False)
        self.never = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.fixed = nn.Parameter(torch.ones(width), requires_grad=False)
        self.register_buffer("offset", torch.rand(width))

    def forward(self, x: Tensor, seldom: bool) -> tuple[Tensor, None]:
        """A view, inside a tuple."""
        y = torch.tanh(self.inner(x)) * self.scale + self.offset * self.fixed
        return (y + self.seldom(x) if seldom else y).view(x.shape), None


class Odd(nn.Module):
    """What language models do not have: :class:`Layer`; block 1 uses a weight from outside, 0 and 3 share one."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.outer = nn.Linear(width, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(4))
        self.layers[3].inner.bias = self.layers[0].inner.bias
        self.layers[1].inner.weight = self.outer.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.out = nn.Linear(width, VOCABULARY)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.outer(self.embedding(inputs))
        for layer in self.layers:
            x, _ = layer(x, seldom=bool(inputs[0, 0] % 2))
            x += 1
        return self.out(x)


def gpt(tied: bool = True) -> nn.Module:
    return GPT(vocabulary=VOCABULARY, layers=3, width=8, heads=2, kv_heads=1, hidden=10, tied_embeddings=tied).build()


def untied() -> nn.Module:
    return gpt(tied=False)


def llama() -> nn.Module:
    return import_path("tests.parallel.shard.llama:llama")(VOCABULARY)


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt": gpt, "untied": untied, "llama": llama, "odd": Odd}


def model_of(case: dict[str, Any], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[case.get("model", "gpt")]().to(getattr(torch, case.get("dtype", "float64")))


def samples(step: int) -> dict[str, Tensor]:
    """All samples of a step; their numbers of valid targets differ."""
    generator = torch.Generator().manual_seed(100 + step)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, TIME + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row in range(SAMPLES):
        targets[row, : row % TIME] = -100
    return {"inputs": tokens[:, :-1], "targets": targets}


def micro_batches(case: dict[str, Any], step: int, rank: int, ranks: int) -> list[dict[str, Tensor]]:
    """This rank's; ``shares`` says how many samples each rank has, if not equally many."""
    sizes = case.get("shares") or [SAMPLES // ranks + (place < SAMPLES % ranks) for place in range(ranks)]
    first = sum(sizes[:rank])
    mine = {name: value[first : first + sizes[rank]] for name, value in samples(step).items()}
    size = case.get("micro_batch", SAMPLES)
    return [{name: value[at : at + size] for name, value in mine.items()} for at in range(0, sizes[rank], size)]


def steps(
    program: LocalProgram, case: dict[str, Any], rank: int, ranks: int, reduce: Callable[[Tensor], Tensor]
) -> Any:
    """Losses and norms of each step; weights change."""
    with program.held.local():
        optimizer = OPTIMIZERS[case.get("optimizer", "adamw")].build(program.model)
    objective, losses, norms = program.objective, [], []
    for step in range(case.get("steps", STEPS)):
        batches = micro_batches(case, step, rank, ranks)
        counts = {"cross-entropy": objective.counts(samples(step))["cross-entropy"]}
        totals = program.forward_backward(batches, counts)
        program.exchange.before_step()
        total = totals.get("cross-entropy", torch.zeros((), dtype=torch.float64)).double()
        losses.append(float(reduce(total.clone()) / counts["cross-entropy"]))
        trained = [parameter for parameter in program.parameters() if parameter.grad is not None]
        norm = program.norm(trained)
        norms.append(float(norm))
        if case.get("clip"):
            clip_([parameter.grad for parameter in trained], norm, case["clip"])
        optimizer.step()
        program.exchange.after_step()
        for parameter in program.parameters():
            parameter.grad = None
    return {"losses": losses, "norms": norms}


@cache
def _alone(case: str) -> dict[str, Any]:
    return compute_alone(json.loads(case))


def alone(case: dict[str, Any]) -> dict[str, Any]:
    """The same in one process, which does not care how it would be divided."""
    matters = {
        key: value
        for key, value in case.items()
        if key not in ("stage", "prefetch", "offload", "shares", "spoiled", "ring")
    }
    return _alone(json.dumps({**matters, "micro_batch": SAMPLES if case.get("model") != "odd" else 1}))


def compute_alone(case: dict[str, Any]) -> dict[str, Any]:
    objective = NextToken(logits=case.get("logits", "auto"))
    program = LocalProgram(
        model_of(case), objective, device=torch.device("cpu"), precision=case.get("precision", "fp32")
    )
    found = steps(program, case, 0, 1, lambda total: total)
    return {**found, "weights": {name: value.double().tolist() for name, value in program.tensors().items()}}


def sharded_program(mesh: Mesh, case: dict[str, Any]) -> LocalProgram:
    objective = NextToken(logits=case.get("logits", "auto"))
    model = model_of(case, seed=mesh.rank)  # rank 0's is to become everybody's
    program = LocalProgram(model, objective, device=mesh.device, precision=case.get("precision", "fp32"))
    technique = Shard(stage=case.get("stage", 3), prefetch=case.get("prefetch", 0), offload=case.get("offload", False))
    recompute = partial(set_recompute, model, case.get("recompute", "none"))
    if mesh.size > mesh.data.size:
        others = {axis: LAYOUTS.resolve(axis)() for axis in ("tensor", "context") if axis in mesh.axes}
        return lay_out(
            program,
            mesh,
            {"shard": technique, **others},
            exchange=AllReduce(),
            example=lambda: samples(0),
            settle=recompute,
        )
    recompute()
    if not case.get("ring"):
        return technique.apply(program, mesh)
    return technique.apply(Replicate(exchange=Ring(bucket=200)).apply(program, mesh), mesh, replicas=())


class Dropped:
    """A reduce-scatter in which every rank keeps its own."""

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        output_tensor.copy_(input_tensor.view(group.size(), -1)[group.rank()])


def spoil(program: LocalProgram, how: str) -> None:
    for unit in program.sharding.units:
        if how == "dropped":
            unit.set_custom_reduce_scatter(Dropped())
        if how == "mean":
            unit.set_gradient_divide_factor(2.0)
    if how == "replicas":
        program.sharding.root.set_requires_all_reduce = lambda wanted: type(
            program.sharding.root
        ).set_requires_all_reduce(program.sharding.root, False)


def sharded(mesh: Mesh, case: dict[str, Any]) -> dict[str, Any]:
    program = sharded_program(mesh, case)
    spoil(program, case.get("spoiled", ""))
    found = steps(program, case, mesh.data.rank, mesh.data.size, mesh.world.all_reduce)
    weights = gather_model(program.held, mesh.world)
    return {**found, "weights": {name: value.double().tolist() for name, value in weights.items()}}


def sharded_cases(mesh: Mesh, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [sharded(mesh, case) for case in cases]
