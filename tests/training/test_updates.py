"""Several updates on one model, as in a GAN: each trains its own parameters, from its own terms, in its own rhythm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.training.small import BATCH, FEATURES, SEED, TECHNIQUES, heard, prepare, same, snapshot, stepping
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional

from modelwright.app.seeing import _norms
from modelwright.app.session import run_training
from modelwright.base import phases
from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh, arranged
from modelwright.data.order import Order
from modelwright.optim.adamw import AdamW
from modelwright.optim.scaling import DynamicScale
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.sgd import SGD
from modelwright.runs import Run
from modelwright.runs.metrics import read_metrics
from modelwright.training import checkpoints
from modelwright.training.updating import Updating
from modelwright.training.watching import Watch

HERE = "tests.training.test_updates"
TOTAL = 9


class Gan(nn.Module):
    """A generator and a discriminator of points."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, FEATURES))
        self.discriminator = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))


class Adversarial:
    """The non-saturating losses of Goodfellow et al. 2014; noise comes with the data, so that it can be repeated."""

    coefficients: ClassVar = {"generator": 1.0, "discriminator": 1.0}
    metrics = ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        count = torch.tensor(len(batch["inputs"]))
        return {"generator": count, "discriminator": count.clone()}

    def forward(self, model: Gan, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        made = model.generator(batch["noise"])
        judge = model.discriminator
        return judge(batch["inputs"]), judge(made.detach()), judge(made)

    def loss(self, outputs: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        real, fake, fooling = outputs
        return {
            "discriminator": (functional.softplus(-real) + functional.softplus(fake)).sum(),
            "generator": functional.softplus(-fooling).sum(),
        }


def arrays() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "inputs": torch.randn(60, FEATURES, generator=generator, dtype=torch.float64) + 1,
        "noise": torch.randn(60, 3, generator=generator, dtype=torch.float64),
    }


def gan() -> Gan:
    torch.manual_seed(4)
    return Gan().double()


def updates() -> dict[str, Updating]:
    return {
        "discriminator": Updating(
            optimizer=AdamW(lr=0.01),
            schedule=Linear(),
            parameters=("discriminator",),
            terms=("discriminator",),
            clip=0.5,
        ),
        "generator": Updating(
            optimizer=SGD(lr=0.1, momentum=0.9),
            schedule=Constant(),
            parameters=("generator",),
            terms=("generator",),
            clip=None,
            every=2,
        ),
    }


def training(mesh: Mesh | None = None, **fields: Any) -> Any:
    settings = {"model": gan(), "objective": Adversarial(), "updates": updates(), "total": TOTAL, **fields}
    return prepare(arrays(), mesh, **settings)


def plain() -> tuple[nn.Module, list[dict[str, float]]]:
    """The same training written out."""
    model, objective, data = gan(), Adversarial(), arrays()
    matrices = [p for p in model.discriminator.parameters() if p.dim() > 1]
    others = [p for p in model.discriminator.parameters() if p.dim() == 1]
    judge = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=0.01, foreach=False
    )
    maker = torch.optim.SGD(model.generator.parameters(), lr=0.1, momentum=0.9, foreach=False)
    order = Order(60, seed=SEED)
    rows = []
    for step in range(TOTAL):
        drawn = torch.from_numpy(order(range(step * BATCH, (step + 1) * BATCH)))
        batch = {name: value[drawn] for name, value in data.items()}
        row = {}
        for group in judge.param_groups:
            group["lr"] = 0.01 * Linear().factor(step, TOTAL)
        for name, optimizer, due in (("discriminator", judge, True), ("generator", maker, step % 2 == 0)):
            if not due:
                continue
            model.zero_grad()
            loss = objective.loss(objective.forward(model, batch), batch)[name] / BATCH
            loss.backward()
            if name == "discriminator":
                norm = sum(p.grad.square().sum() for p in model.discriminator.parameters()).sqrt()
                for parameter in model.discriminator.parameters():
                    parameter.grad *= min(1.0, 0.5 / norm.item())
            optimizer.step()
            row[name] = loss.item()
        rows.append(row)
    return model, rows


@pytest.mark.parametrize("micro_batch", [BATCH, 2])
def test_two_updates_equal_a_loop_written_out(micro_batch: int) -> None:
    model, rows = plain()
    prepared = training(micro_batch=micro_batch)
    found = [step.losses for step in stepping(prepared)]
    for one, other in zip(found, rows, strict=True):
        assert one == pytest.approx(other, rel=1e-10)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(prepared.state.model_tensors()[name], value, rtol=1e-10, atol=1e-12)


def test_the_check_can_fail() -> None:
    """With the generator acting in every step the weights are others."""
    model, _ = plain()
    eager = updates()
    eager["generator"] = replace(eager["generator"], every=1)
    prepared = training(updates=eager)
    list(stepping(prepared))
    assert not torch.allclose(
        prepared.state.model_tensors()["generator.0.weight"], model.generator[0].weight, rtol=1e-6
    )


def two_ranks(mesh: Mesh) -> dict[str, Any]:
    prepared = training(mesh, micro_batch=3)
    list(stepping(prepared))
    return {name: value.tolist() for name, value in snapshot(prepared).items()}


def test_two_ranks_equal_one() -> None:
    prepared = training()
    list(stepping(prepared))
    alone = snapshot(prepared)
    first, second = run_world(f"{HERE}:two_ranks", 2)
    assert first == second
    for name, value in alone.items():
        torch.testing.assert_close(torch.tensor(first[name], dtype=value.dtype), value, rtol=1e-9, atol=1e-12)


def divided(mesh: Mesh, layouts: list[dict[str, int]]) -> list[Any]:
    """Losses and whole weights of the same training in layouts; rank 0 has the weights."""
    found = []
    for layout in layouts:
        prepared = training(arranged(mesh, layout), layout=layout, micro_batch=3)
        losses = [step.losses for step in stepping(prepared)]
        found.append([losses, {name: value.tolist() for name, value in prepared.whole_weights().items()}])
    return found


def test_two_updates_in_other_layouts_equal_a_loop_written_out() -> None:
    model, rows = plain()
    layouts = [{"shard": 2}, {"tensor": 2}]
    for losses, weights in run_world(f"{HERE}:divided", 2, layouts=layouts)[0]:
        for one, other in zip(losses, rows, strict=True):
            assert one == pytest.approx(other, rel=1e-10)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(torch.tensor(weights[name], dtype=value.dtype), value, rtol=1e-10, atol=1e-12)


def test_every_update_is_told_by_name() -> None:
    steps = list(stepping(training()))
    assert list(steps[0].gradient_norms) == ["discriminator", "generator"]
    assert list(steps[1].gradient_norms) == ["discriminator"]
    assert steps[0].learning_rates["generator"] == 0.1
    assert not any(step.masked for step in steps)


class Halved(Adversarial):
    """One term, minimised by both."""

    coefficients: ClassVar = {"sum": 0.5}

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": torch.tensor(len(batch["inputs"]))}

    def loss(self, outputs: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": torch.stack(list(super().loss(outputs, batch).values())).sum()}


def test_rows_name_each_update_alike_in_every_step(tmp_path: Path) -> None:
    """The first update acts in every other step only, and both minimise the one term."""
    rhythms = {"generator": 2, "discriminator": 1}
    both = {name: replace(updates()[name], terms=(), every=every) for name, every in rhythms.items()}
    prepared = training(objective=Halved(), updates=both, total=4)
    run = Run.create(tmp_path, "both", "train")
    run_training(prepared, run, stop=lambda: False)
    rows = [row for row in read_metrics(run.metrics_path) if row["kind"] == "step"]
    assert [row.get("learning_rate") for row in rows] == [0.1, None, 0.1, None]
    assert all(row["learning_rate/discriminator"] <= 0.01 for row in rows)
    assert all("gradient_norm/discriminator" in row for row in rows)
    steps = list(stepping(training(objective=Halved(), updates=both, total=4)))
    assert [list(step.losses) for step in steps] == [["generator/sum", "discriminator/sum"], ["discriminator/sum"]] * 2
    assert [row["loss"] for row in rows] == [0.5 * sum(step.losses.values()) for step in steps]


class OneIdle(Adversarial):
    """The generator never has a valid target."""

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().counts(batch) | {"generator": torch.tensor(0)}


def test_an_update_without_targets_is_told_as_such() -> None:
    with heard() as events:
        list(stepping(training(objective=OneIdle(), total=1)))
    (told,) = [event for event in events if event.kind == "step-masked"]
    assert told.message == "step 1 was left out: no valid targets"


def test_norms_by_module_are_of_the_unscaled_gradients_of_each_update() -> None:
    fields = {"watch": Watch(gradients=1), "total": 1}
    rows = []
    for scales in (None, {"discriminator": 1024.0, "generator": 2.0}):
        prepared = training(**fields)
        for update in prepared.updates:
            update.scale = None if scales is None else DynamicScale(initial=scales[update.name]).build()
        norms = _norms(prepared, 1, 1)
        with phases.watching(norms):
            list(stepping(prepared))
        rows.append(norms.rows(all_of_them=True))
    for plain, scaled in zip(*rows, strict=True):
        assert scaled.pop("kind") == plain.pop("kind") == "gradients"
        assert scaled == pytest.approx(plain, rel=1e-9)


def test_a_resumed_training_goes_on_in_the_same_rhythm(tmp_path: Any) -> None:
    whole, first, second = training(), training(), training()
    list(stepping(whole))
    for step in stepping(first):
        if step.number == 4:
            break
    checkpoints.save(first.state, tmp_path, first.group, keep=1)
    checkpoints.load_newest(second.state, tmp_path, second.group)
    list(stepping(second))
    assert same(snapshot(second), snapshot(whole))


@pytest.mark.parametrize(
    ("change", "said", "where"),
    [
        ({"discriminator": {"parameters": ("*",)}}, "belongs to the updates", "updates"),
        ({"discriminator": {"parameters": ("discriminator.0.*",)}}, "belongs to no update", "updates"),
        ({"discriminator": {"parameters": ("critic",)}}, "no name fits", "updates.discriminator.parameters"),
        ({"discriminator": {"every": 3}}, "no update acts in every step", "updates"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, dict[str, Any]], said: str, where: str) -> None:
    settings = updates()
    for name, fields in change.items():
        settings[name] = replace(settings[name], **fields)
    with pytest.raises(ModelwrightError) as caught:
        training(updates=settings)
    assert said in caught.value.what
    assert caught.value.where == where


def test_an_unknown_term_is_refused() -> None:
    settings = updates()
    settings["generator"] = replace(settings["generator"], terms=("maker",))
    with pytest.raises(ModelwrightError, match="no term 'maker'"):
        list(stepping(training(updates=settings)))


def test_one_optimizer_serves_where_nothing_is_split() -> None:
    prepared = training(updates={}, optimizer=TECHNIQUES["sgd"])
    assert [update.name for update in prepared.updates] == [""]
