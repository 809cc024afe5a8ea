"""The techniques of training as a recipe asks for them, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from tests.command import DIGITS, invoke, write_recipe
from torch import Tensor, nn
from torch.nn import functional

from modelwright.runs import Run, read_events
from modelwright.runs.metrics import read_metrics

TWO = "{measure: false, workers: 2, threads: 1, micro_batch: 4"


def trained(name: str, *overrides: str, **fields: str) -> Run:
    outcome = invoke("train", str(write_recipe(DIGITS | fields)), *overrides, "--name", name)
    assert outcome.code == 0, outcome.err
    return Run(Path("runs") / name)


def weights(run: Run) -> dict[str, Tensor]:
    return load_file(run.artifacts / "model.safetensors")


def rows(run: Run, kind: str = "step") -> list[dict[str, Any]]:
    return [row for row in read_metrics(run.metrics_path) if row["kind"] == kind]


class Gan(nn.Module):
    """A generator of rows of pixels, and their judge."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(8, 64)
        self.discriminator = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.discriminator(inputs)


class Adversarial:
    coefficients: ClassVar = {"generator": 1.0, "discriminator": 1.0}
    metrics = ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(self.coefficients, torch.tensor(len(batch["inputs"])))

    def forward(self, model: Gan, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        made = model.generator(batch["inputs"][:, :8])
        return model(batch["inputs"]), model(made.detach()), model(made)

    def loss(self, outputs: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        real, fake, fooling = outputs
        return {
            "discriminator": (functional.softplus(-real) + functional.softplus(fake)).sum(),
            "generator": functional.softplus(-fooling).sum(),
        }


def test_a_gan_has_two_updates() -> None:
    run = trained(
        "gan",
        model="tests.app.test_techniques:Gan",
        objective="tests.app.test_techniques:Adversarial",
        updates="{judge: {parameters: [discriminator], terms: [discriminator]}, "
        "maker: {parameters: [generator], terms: [generator], every: 3, optimizer: {use: sgd, lr: 0.1}}}",
        plan=f"{TWO}}}",
    )
    steps = rows(run)
    assert [("loss/generator" in row or "generator" in str(row)) for row in steps[:4]] == [True, False, False, True]
    assert {"gradient_norm/maker", "learning_rate/maker"} <= steps[0].keys()


def test_a_run_begins_from_another_and_keeps_what_is_frozen() -> None:
    first = trained("first")
    names = list(weights(first))
    second = trained("second", start=f"{{run: {first.path.absolute()}}}", freeze=f"['{names[0]}']")
    before, after = weights(first), weights(second)
    assert torch.equal(before[names[0]], after[names[0]])
    assert not torch.equal(before[names[1]], after[names[1]])
    assert rows(second)[0]["loss"] < rows(first)[0]["loss"]


def test_a_start_that_does_not_fit_is_found_before_a_worker_starts() -> None:
    first = trained("narrow")
    fields = DIGITS | {"model": "{use: mlp, hidden: [17]}", "start": f"{{run: {first.path.absolute()}}}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "wide")
    assert outcome.code == 2
    assert "16" in outcome.err
    assert not Path("runs/wide").exists()


def test_first_values_settings_by_name_and_averages() -> None:
    run = trained(
        "set",
        initial="{'*.weight': {use: normal, std: 0.01}, '*.bias': {use: constant, value: 0.5}}",
        groups="[{names: ['*bias'], factor: 0.0}]",
        averaging="{use: ema, decay: 0.5}",
        saving="{every: 6}",
    )
    found = weights(run)
    assert all(torch.equal(value, torch.full_like(value, 0.5)) for name, value in found.items() if "bias" in name)
    last = run.checkpoints / "step-00000012"
    live = load_file(last / "model.safetensors")
    assert not any(torch.equal(live[name], value) for name, value in found.items() if "weight" in name)
    shown = load_file(last / "shown" / "model.safetensors")
    assert all(torch.equal(shown[name], value) for name, value in found.items())


def test_early_stopping_finishes_the_run_and_evaluate_agrees() -> None:
    run = trained(
        "patient",
        optimizer="{use: sgd, lr: 0.5}",
        budget="{steps: 400}",
        evaluation="{every: 5, patience: 2, minimum_gain: 0.02, monitor: accuracy, metrics: [accuracy]}",
    )
    assert run.status() == "finished"
    assert run.record.summary["steps"] < 400
    assert "stopped-early" in [event.kind for event in read_events(run.events_path)]
    part = max(row["accuracy"] for row in rows(run, "evaluation")[:-1])
    held_out = run.record.summary["held_out"]["accuracy"]
    assert held_out >= part - 0.02
    outcome = invoke("evaluate", str(run.path), "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["accuracy"] == pytest.approx(held_out, abs=1e-6)


def test_updates_leave_no_parameter_over() -> None:
    fields = DIGITS | {"updates": "{a: {parameters: ['*.weight']}}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "over")
    assert outcome.code == 2
    assert "belongs to no update" in outcome.err


@pytest.mark.parametrize(
    "plan",
    ["precision: bf16-weights", "precision: fp16", "precision: fp32, recompute: ['*'], offload: moments"],
)
def test_how_it_runs_changes_little(plan: str) -> None:
    """Two workers, accumulation; against one process in fp32."""
    plain = trained("plain")
    other = trained("other", plan=f"{TWO}, {plan}}}")
    last = [rows(run)[-1]["loss"] for run in (plain, other)]
    exact = "fp32" in plan
    assert last[1] == pytest.approx(last[0], rel=1e-5 if exact else 0.05)
    plan_json = json.loads((other.path / "plan.json").read_text())
    assert plan_json["precision"] in plan


def test_what_this_machine_cannot_compute_is_refused() -> None:
    outcome = invoke("train", str(write_recipe(DIGITS)), "plan.precision=tf32", "--name", "short")
    assert outcome.code == 2
    assert "compute capability" in outcome.err
    assert not Path("runs/short").exists()


def test_a_start_whose_tokens_are_others_is_refused() -> None:
    """Learnt from other text, the same number means another token; the weights would be read as gibberish."""
    model = "{use: gpt, layers: 1, width: 16, heads: 2}"
    bpe = "{use: text-files, files: ['%s.txt'], context: 16, held_out: 0.3, tokenizer: {use: bpe, vocabulary: 300}}"
    fields = {"model": model, "objective": "next-token", "batch": "4", "budget": "{steps: 3}"}
    first = trained("texts", data=bpe % "[0-3]", **fields)
    for number in range(8):
        Path(f"other-{number}.txt").write_text(f"{number}: entirely different letters: qxzj vwky " * 20)
    other = DIGITS | fields | {"data": bpe % "other-*", "start": f"{{run: {first.path.absolute()}}}"}
    outcome = invoke("train", str(write_recipe(other)), "--name", "wrong")
    assert outcome.code == 2
    assert "another tokenizer" in outcome.err
    assert not Path("runs/wrong").exists()
    remedy = f"{{use: local, folder: {first.path.absolute()}/tokenizer}}"
    same = other["data"].replace("{use: bpe, vocabulary: 300}", remedy)
    outcome = invoke("train", str(write_recipe(other | {"data": same})), "--name", "right")
    assert outcome.code == 0, outcome.err
