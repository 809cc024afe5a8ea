"""Trainings in any layout, whose outcome is compared with one process: losses, norms, scores, saved state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.base.events import Event, listening
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.models.experts import Experts
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim import OptimizerTechnique
from modelwright.optim.adafactor import Adafactor
from modelwright.optim.adamw import AdamW
from modelwright.optim.averages.ema import Ema
from modelwright.optim.muon import Muon
from modelwright.optim.scaling import DynamicScale
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.sgd import SGD
from modelwright.parallel.exchanges.none import NoExchange
from modelwright.parallel.precisions.short_weights import Bf16Weights
from modelwright.parallel.program import local_norm
from modelwright.recipe.foreign import Foreign
from modelwright.recipe.own import OwnOptimizer
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training
from modelwright.training.updating import Updating

BATCH, TIME, VOCABULARY, STEPS = 8, 8, 24, 3
# Far above what float16 holds, so twice it overflows; then it is far below, whatever order sums are taken in.
SCALE = DynamicScale(initial=2.0**31, backoff=2.0**-8, interval=2)
# With the usual eps Adam makes whole steps of gradients that are rounding noise.
OPTIMIZERS: dict[str, OptimizerTechnique] = {
    "adamw": AdamW(lr=0.01, eps=1e-6, weight_decay=0.1),
    "sgd": SGD(lr=0.1, momentum=0.9),
    "muon": Muon(lr=0.02, weight_decay=0.1, adamw_eps=1e-6),
    "adafactor": Adafactor(lr=0.05, weight_decay=0.1),
}


def two_updates(attention: str, rest: str) -> dict[str, Updating]:
    """Each has parameters of its own; the second acts in every other step."""
    return {
        "attention": Updating(
            optimizer=OPTIMIZERS[attention], schedule=Linear(), clip=0.5, parameters=("attention", "attention_norm")
        ),
        "rest": Updating(
            optimizer=OPTIMIZERS[rest],
            schedule=Constant(),
            clip=None,
            parameters=("feed_forward", "feed_forward_norm", "norm", "embedding"),
            every=2,
        ),
    }


@dataclass(frozen=True, kw_only=True)
class MuonOfPieces(Muon):
    """Declares what is not so."""

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"


def torchs(name: str, **arguments: Any) -> OwnOptimizer:
    """One of torch's, as a recipe names it."""
    return OwnOptimizer(Foreign(use=f"torch.optim:{name}", arguments={"lr": 0.01, **arguments}))


OPTIMIZERS["torch adagrad"] = torchs("Adagrad", initial_accumulator_value=0.1)
OPTIMIZERS["torch adafactor"] = torchs("Adafactor")
OPTIMIZERS["muon of pieces"] = MuonOfPieces(lr=0.02, adamw_eps=1e-6)


def texts(samples: int = 32, *, even: bool = False) -> dict[str, Tensor]:
    """``inputs`` and ``targets`` ``[samples, time]``; samples have as many valid targets only where ``even``."""
    random = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCABULARY, (samples, TIME + 1), generator=random)
    targets = tokens[:, 1:].clone()
    if not even:
        targets[
            torch.rand(targets.shape, generator=random) < 0.4 * torch.arange(samples).div(samples / 2).unsqueeze(1)
        ] = -100
    return {"inputs": tokens[:, :-1], "targets": targets}


def gpt(**settings: Any) -> nn.Module:
    """A small one."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"vocabulary": VOCABULARY, "width": 16, "heads": 4, "layers": 2}
    return GPT(**(sizes | settings)).build()


def prepared(
    mesh: Mesh,
    *,
    layout: dict[str, int] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    batch: int = BATCH,
    micro_batch: int = 2,
    optimizer: str = "adamw",
    dtype: str = "float64",
    precision: str = "fp32",
    average: bool = False,
    clip: float | None = 0.5,
    recompute: str = "none",
    offload: str = "none",
    exchange: str = "all-reduce",
    model: dict[str, Any] | None = None,
    even: bool = False,
    steps: int = STEPS,
    short: str = "bfloat16",
    rest: str = "",
    fault: str = "",
) -> Prepared:
    """The training on this rank.

    Args:
        short: type of the copies in bf16-weights; with a longer one than that of the masters there is no rounding.
        rest: if given, the optimizer of a second update, which trains what is not attention in every other step.
        fault: names something that it gets wrong.
    """
    Bf16Weights.dtype = getattr(torch, short)
    data = texts(even=even)
    training = Training(
        model=gpt(**(model or {})).to(getattr(torch, dtype)),
        data=Splits(train=InMemory(data), held_out=InMemory({name: value[:7] for name, value in data.items()})),
        objective=NextToken(),
        optimizer=OPTIMIZERS[optimizer],
        batch=batch,
        seed=3,
        clip=clip,
        updates=two_updates(optimizer, rest) if rest else {},
        averaging=Ema(decay=0.5) if average else None,
        loss_scale=SCALE,
        budget=Budget(steps=steps),
    )
    plan = Plan(
        workers=mesh.size,
        layout=layout or {"replicate": mesh.size},
        layouts=settings or {},
        micro_batch=micro_batch,
        precision=precision,
        recompute=recompute,
        offload=offload,
        exchange=exchange,
        steps=steps,
    )
    made = Prepared(training, plan, mesh)
    if fault:
        FAULTS[fault](made)
    return made


def drop_reduction(made: Prepared) -> None:
    """Replicas no longer hear of each other's gradients."""
    made.program.connect(lambda parameters: NoExchange())


def mean_of_means(made: Prepared) -> None:
    """Each rank divides by the number of its own targets, as if all had as many."""
    program, ranks = made.program, made.data.size
    compute = program.forward_backward

    def divided(micro_batches: Any, counts: Any, scale: float = 1.0) -> Any:
        return compute(micro_batches, {term: ranks * own for term, own in program.counts(micro_batches).items()}, scale)

    program.forward_backward = divided  # type: ignore[method-assign]


def leave_out_norms(made: Prepared) -> None:
    """The norm is that of this rank's pieces, and gradients are clipped by it."""
    made.program.norm_of = local_norm


def balance_alone(made: Prepared) -> None:
    """The wish for even use of experts is each rank's own, as if none shared its samples."""

    def alone(mix: Any) -> Any:
        return lambda x, weights, sharing: mix(x, weights)

    for layer in made.program.model.modules():
        if isinstance(layer, Experts):
            layer.mix = alone(layer.mix)  # type: ignore[method-assign]


FAULTS = {
    "dropped reduction": drop_reduction,
    "mean of means": mean_of_means,
    "own norm": leave_out_norms,
    "own balance": balance_alone,
}


@dataclass(frozen=True)
class Outcome:
    """What a training left behind.

    Attributes:
        steps: loss and gradient norm of each step that was applied.
        told: what events said of steps that were left out and of the loss scale; of each step whether it was left
            out, and the scale after it, which are the same on every rank.
        scores: held-out loss and metrics.
        saved: whole tensors by file and name, on rank 0.
        proportional: whether updates are in proportion to gradients, so that rounding does not grow.
    """

    steps: Tensor
    told: list[Any]
    scores: dict[str, float]
    saved: dict[str, Tensor]
    proportional: bool

    def distance(self, other: Outcome) -> float:
        """The largest difference, relative to the largest number beside it.

        Of what is saved too, but in float32 where rounding grows, as in Adam's first steps.
        """
        pairs = [(self.steps, other.steps), (_tensor(self.scores), _tensor(other.scores))]
        if self.saved.keys() != other.saved.keys() or self.told != other.told:
            return float("inf")
        if self.proportional or any(tensor.dtype == torch.float64 for tensor in self.saved.values()):
            pairs += [(tensor, other.saved[name]) for name, tensor in self.saved.items()]
        return max(_apart(one.double(), two.double()) for one, two in pairs)


def outcome(mesh: Mesh, folder: Path, **arguments: Any) -> Outcome:
    """Train, evaluate and save."""
    made = prepared(mesh, **arguments)
    events: list[Event] = []
    with listening(events.append):
        taken = [
            (step.loss({}), sum(step.gradient_norms.values()), step.masked, _scale(made))
            for step in made.steps(lambda: False)
        ]
    told = [event.message for event in events if event.kind in ("step-masked", "loss-scale")]
    ranks = made.group.gather([[masked, scale] for _, _, masked, scale in taken])
    assert all(rank == ranks[0] for rank in ranks), ranks
    steps = [(loss, norm) for loss, norm, masked, _ in taken if not masked]
    scores = made.evaluate(whole=True)
    assert scores is not None
    path = checkpoints.save(made.state, folder, made.group, 9, made.weights)
    return Outcome(
        steps=torch.tensor(steps, dtype=torch.float64),
        told=[told, ranks[0]],
        scores=scores,
        saved=read(path) if mesh.rank == 0 else {},
        proportional=arguments.get("optimizer") == "sgd",
    )


def _scale(made: Prepared) -> float:
    scale = made.updates[0].scale
    return 1.0 if scale is None else scale.value


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(path.glob("*.safetensors"))
        for name, tensor in checkpoints.read_tensors(file).items()
    }


def reloaded(mesh: Mesh, folder: Path, again: Path, **arguments: Any) -> bool:
    """Whether the checkpoint in ``folder``, loaded in another layout and saved from there, has the same bytes."""
    made = prepared(mesh, **arguments)
    loaded = checkpoints.load_newest(made.state, folder, made.group)
    assert loaded is not None
    path = checkpoints.save(made.state, again, made.group, 9, made.weights)
    if mesh.rank > 0:
        return True
    first, second = read(loaded), read(path)
    if (loaded / "state.json").read_text() != (path / "state.json").read_text():
        return False
    return first.keys() == second.keys() and all(
        first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first
    )


def _tensor(scores: dict[str, float]) -> Tensor:
    return torch.tensor([scores[name] for name in sorted(scores)], dtype=torch.float64)


def _apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    difference = (one - two).abs().max()
    return float(difference / two.abs().max().clamp(min=1e-30)) if difference else 0.0


# --- the matrix

TWO: list[dict[str, Any]] = [
    {"layout": {"replicate": 2}},
    {"layout": {"shard": 2}},
    {"layout": {"tensor": 2}},
    {"layout": {"context": 2}},
    {"layout": {"pipeline": 2}},
    {"layout": {"expert": 2}, "model": {"experts": 4, "hidden": 8}},
    {"layout": {"shard": 2}, "settings": {"shard": {"stage": 1}}},
    {"layout": {"shard": 2}, "settings": {"shard": {"stage": 2, "prefetch": 1}}},
    {"layout": {"tensor": 2}, "settings": {"tensor": {"sequence": False}}},
    {"layout": {"context": 2}, "settings": {"context": {"attention": "all-gather"}}},
    {"layout": {"pipeline": 2}, "settings": {"pipeline": {"schedule": "gpipe"}}},
    {"layout": {"pipeline": 2}, "settings": {"pipeline": {"schedule": "interleaved-1f1b"}}, "model": {"layers": 4}},
    {"layout": {"pipeline": 2}, "settings": {"pipeline": {"schedule": "zbv-zero-bubble"}}, "model": {"layers": 4}},
    {"layout": {"pipeline": 2}, "settings": {"pipeline": {"schedule": "dualpipe-v"}}, "model": {"layers": 4}},
]
"""Each layout by itself; the first ones cover all."""
FOUR: list[dict[str, Any]] = [
    {"layout": {"replicate": 2, "shard": 2}},
    {"layout": {"pipeline": 2, "tensor": 2}},
    {"layout": {"shard": 2, "context": 2}},
    {"layout": {"replicate": 2, "expert": 2}, "model": {"experts": 4, "hidden": 8}},
    {"layout": {"tensor": 2, "context": 2}},
    {"layout": {"replicate": 2, "tensor": 2}},
    {"layout": {"replicate": 2, "context": 2}},
    {"layout": {"replicate": 2, "pipeline": 2}},
    {"layout": {"shard": 2, "tensor": 2}},
    {"layout": {"pipeline": 2, "context": 2}},
    {"layout": {"shard": 4}},
    {"layout": {"tensor": 4}},
    {"layout": {"context": 4}},
    {"layout": {"pipeline": 4}, "model": {"layers": 4}, "micro_batch": 1},
    {"layout": {"expert": 4}, "model": {"experts": 4, "hidden": 8}},
    {"layout": {"pipeline": 2, "shard": 2}},
    {"layout": {"pipeline": 2, "expert": 2}, "model": {"experts": 4, "hidden": 8}},
    {"layout": {"shard": 2, "expert": 2}, "model": {"experts": 4, "hidden": 8}},
]
SPREAD = {"experts": 4, "hidden": 8}
WHOLE = {"experts": 4, "hidden": 7}  # units that two ranks cannot share
PLAIN = {"tensor": {"sequence": False}}
PINNED = {"tensor": {"pins": {"blocks.*.feed_forward.up": None, "blocks.*.feed_forward.router.weight": 0}}}
EXPERTS_TWO: list[dict[str, Any]] = [
    {"layout": {"tensor": 2}, "model": SPREAD},
    {"layout": {"context": 2}, "model": SPREAD},
    {"layout": {"tensor": 2}, "model": SPREAD, "settings": PLAIN},
    {"layout": {"tensor": 2}, "model": WHOLE},
    {"layout": {"tensor": 2}, "model": WHOLE, "settings": PLAIN},
    {"layout": {"tensor": 2}, "model": SPREAD, "settings": PINNED},
]
"""Experts that computation is divided around, or within; the first ones cover what there is."""
EXPERTS_FOUR: list[dict[str, Any]] = [
    {"layout": {"expert": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"expert": 2, "context": 2}, "model": {**SPREAD, "balance": 1.0}},
    {"layout": {"expert": 2, "tensor": 2}, "model": SPREAD, "settings": PLAIN},
    {"layout": {"expert": 2, "tensor": 2}, "model": WHOLE},
    {"layout": {"expert": 2, "tensor": 2}, "model": WHOLE, "settings": PLAIN},
    {"layout": {"expert": 2, "tensor": 2}, "model": SPREAD, "settings": PINNED},
    {"layout": {"tensor": 2, "context": 2}, "model": SPREAD},
    {"layout": {"expert": 2, "context": 2}, "model": SPREAD, "settings": {"context": {"attention": "all-gather"}}},
    {"layout": {"pipeline": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"pipeline": 2, "context": 2}, "model": SPREAD},
    {"layout": {"shard": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"shard": 2, "context": 2}, "model": SPREAD},
]
EXPERTS_EIGHT: list[dict[str, Any]] = [
    {"layout": {"expert": 2, "tensor": 2, "context": 2}, "model": SPREAD},
    {"layout": {"replicate": 2, "expert": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"shard": 2, "expert": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"shard": 2, "expert": 2, "context": 2}, "model": SPREAD},
    {"layout": {"pipeline": 2, "expert": 2, "tensor": 2}, "model": SPREAD},
    {"layout": {"pipeline": 2, "expert": 2, "context": 2}, "model": SPREAD},
]
FP16: dict[str, Any] = {"dtype": "float32", "precision": "fp16", "optimizer": "sgd", "steps": 5}
SHORT: dict[str, Any] = {"dtype": "float32", "precision": "bf16-weights", "optimizer": "sgd"}
COPIES: dict[str, Any] = {**SHORT, "short": "float64", "recompute": "full", "average": True}
WHOLE: list[dict[str, Any]] = [
    {"optimizer": "muon", "offload": "moments", "average": True},
    {"optimizer": "adafactor", "micro_batch": 1, "model": {"tied_embeddings": False}},
]
"""Optimizers that see whole tensors."""
TWO_UPDATES: list[dict[str, Any]] = [
    {"rest": "muon", "average": True},
    {**COPIES, "rest": "sgd"},
    {**FP16, "rest": "sgd"},
]
"""Two updates of parameters of their own."""
VARIANTS: list[dict[str, Any]] = [
    {},
    {"micro_batch": 1, "optimizer": "sgd", "clip": None, "model": {"tied_embeddings": False}},
    {"dtype": "float32", "average": True, "recompute": "full"},
    {"dtype": "float32", "precision": "bf16", "micro_batch": 4},
    {"even": True, "model": {"kv_heads": 2, "activation": "gelu"}, "offload": "moments"},
    FP16,
    SHORT,
    COPIES,
    *WHOLE,
    *TWO_UPDATES,
]
"""Accumulation, unequal targets, tied weights, averages, optimizers, recomputation, number formats."""


def matrix(layouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every layout in every variant that makes sense in it."""
    return [with_variant(layout, variant) for layout in layouts for variant in VARIANTS]


def with_variant(layout: dict[str, Any], variant: dict[str, Any]) -> dict[str, Any]:
    """A layout in a variant of the training, as far as it makes sense there."""
    model = {**layout.get("model", {}), **variant.get("model", {})}
    case = {**variant, **layout, "model": model}
    if "shard" in case["layout"]:  # which has a setting of its own
        case.pop("offload", None)
    if "pipeline" in case["layout"]:  # where a worker may hold nothing that one of several updates trains
        case.pop("rest", None)
    if "pipeline" in case["layout"] and case.get("micro_batch") == 4:  # it wants more of them
        case["micro_batch"] = 2
    if case["layout"].get("tensor") == 4:
        model.pop("kv_heads", None)
    if "experts" in model and case.get("precision") and case.get("short") != "float64":
        # Rounding chooses another expert here and there, in one process too: 0.24 apart by micro-batches of 1 and 8.
        model["experts_per_token"] = model["experts"]
    return case
