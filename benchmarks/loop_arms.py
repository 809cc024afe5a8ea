"""The arms and tasks of ``loop.py``: the same training, written for each trainer as its documentation has it."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import lightning
import torch
import transformers
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import modelwright as mw
from modelwright.app.train import train
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.data.texts.python_stdlib import PythonStdlib
from modelwright.models.convnet import ConvNet
from modelwright.models.gpt import GPT
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.optim.schedules.constant import Constant
from modelwright.runs.metrics import read_metrics

warnings.filterwarnings("ignore")
for noisy in ("lightning.pytorch", "lightning.fabric", "accelerate", "transformers"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()

LAST = 10  # Steps whose mean loss is shown.


@dataclass
class Measured:
    """When the steps after the warm-up began and ended, seconds since 1970, and the mean loss of the last ten."""

    begin: float
    end: float
    steps: int
    loss: float
    note: str = ""


@dataclass(frozen=True)
class Task:
    """What is trained: ``model()`` gives the same weights each time."""

    model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    batch: int
    steps: int
    warm_up: int
    lr: float
    recipe: str


@dataclass(frozen=True)
class Setting:
    """How an arm runs; what is left out is the arm's own default."""

    fused: bool = False
    batched: bool = False
    precision: str = "fp32"
    compile: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


# --- tasks


def digits_mlp() -> Task:
    pixels, digits = load_digits(return_X_y=True)

    def model() -> nn.Module:
        torch.manual_seed(0)
        sizes = [(64, 128), (128, 128)]
        hidden = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(128, 10))

    recipe = "model: {use: mlp, hidden: [128, 128]}\ndata: {use: sklearn, name: digits}\nobjective: classification\n"
    inputs, targets = torch.as_tensor(pixels).float() / 16, torch.as_tensor(digits)
    return Task(model, inputs, targets, batch=64, steps=1500, warm_up=200, lr=1e-3, recipe=recipe)


def convnet() -> Task:
    pixels, digits = load_digits(return_X_y=True)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return ConvNet(channels=1, image_size=8, classes=10).build()

    recipe = "model: convnet\ndata: {use: sklearn, name: digits, images: true}\nobjective: classification\n"
    inputs, targets = torch.as_tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.as_tensor(digits)
    return Task(model, inputs, targets, batch=64, steps=80, warm_up=20, lr=1e-3, recipe=recipe)


def gpt() -> Task:
    source = PythonStdlib(context=128)
    data = source.open(source.prepare(mw.data_cache()))
    windows = data.train.__getitems__(range(2048))  # type: ignore[attr-defined]

    def model() -> nn.Module:
        torch.manual_seed(0)
        return GPT(vocabulary=data.facts["vocabulary"], layers=4, width=192, heads=3).build()

    recipe = (
        "model: {use: gpt, layers: 4, width: 192, heads: 3}\n"
        "data: {use: python-stdlib, context: 128}\nobjective: next-token\n"
    )
    return Task(model, windows["inputs"], windows["targets"], batch=32, steps=24, warm_up=8, lr=1e-3, recipe=recipe)


TASKS = {"digits-mlp": digits_mlp, "convnet": convnet, "gpt": gpt}


# --- what the rivals share


class Batches(Dataset):  # type: ignore[type-arg]
    """A whole batch for a list of indices, in one read: torch's own convention."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.inputs)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices)
        return {"inputs": self.task.inputs[chosen], "targets": self.task.targets[chosen]}


class Samples(Dataset):  # type: ignore[type-arg]
    """One sample for an index, as in a quick start."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.task.inputs[index], "targets": self.task.targets[index]}


def loader(task: Task, setting: Setting) -> DataLoader[Any]:
    """Batched reads in our order; or the usual: shuffled samples, collated one by one."""
    if not setting.batched:
        return DataLoader(Samples(task), batch_size=task.batch, shuffle=True, drop_last=True)
    order = Order(len(task.inputs), seed=0)
    batches = [list(order(range(i * task.batch, (i + 1) * task.batch))) for i in range(task.steps)]
    return DataLoader(Batches(task), batch_sampler=batches, collate_fn=lambda batch: batch)


def forever(batches: Any, steps: int) -> Iterator[Any]:
    done = 0
    while done < steps:
        for batch in batches:
            if done == steps:
                return
            yield batch
            done += 1


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch["inputs"]).flatten(0, -2).float(), batch["targets"].flatten())


def optimizer_of(model: nn.Module, task: Task, setting: Setting) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=task.lr, weight_decay=0.0, **({"fused": True} if setting.fused else {})
    )


class Clock:
    """When each step ended, and its loss."""

    def __init__(self, task: Task) -> None:
        self.task, self.times, self.losses = task, [], []

    def __call__(self, loss: Tensor) -> None:
        self.times.append(time.time())
        self.losses.append(loss.detach())

    def measured(self, note: str = "") -> Measured:
        first, last = self.task.warm_up - 1, len(self.times) - 1
        loss = float(torch.stack([value.float() for value in self.losses[-LAST:]]).mean()) if self.losses else 0.0
        return Measured(self.times[first], self.times[last], last - first, loss, note)


# --- the arms


def plain(task: Task, setting: Setting) -> Measured:
    model, clock = task.model(), Clock(task)
    optimizer = optimizer_of(model, task, setting)
    if setting.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    for batch in forever(loader(task, setting), task.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == "bf16"):
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock(loss)
    return clock.measured()


def with_accelerate(task: Task, setting: Setting) -> Measured:
    mixed = {"mixed_precision": "bf16"} if setting.precision == "bf16" else {}
    dynamo = {"dynamo_backend": "inductor"} if setting.compile else {}
    accelerator = accelerate.Accelerator(cpu=True, **mixed, **dynamo)
    model, clock = task.model(), Clock(task)
    model, optimizer, batches = accelerator.prepare(model, optimizer_of(model, task, setting), loader(task, setting))
    for batch in forever(batches, task.steps):
        with accelerator.autocast():
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        clock(loss)
    return clock.measured()


class Module(lightning.LightningModule):
    def __init__(self, task: Task, setting: Setting) -> None:
        super().__init__()
        self.model, self.task, self.setting = task.model(), task, setting
        if setting.compile:
            self.model.compile()

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = loss_of(self.model, batch)
        if not self.setting.extra.get("barebones"):
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.model, self.task, self.setting)


class LightningClock(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.clock(outputs["loss"])


def with_lightning(task: Task, setting: Setting) -> Measured:
    clock = Clock(task)
    precision = {"precision": "bf16-mixed"} if setting.precision == "bf16" else {}
    trainer = lightning.Trainer(
        max_steps=task.steps, accelerator="cpu", callbacks=[LightningClock(clock)], **precision, **setting.extra
    )
    trainer.fit(Module(task, setting), loader(task, setting))
    return clock.measured()


class Judged(nn.Module):
    """The Trainer wants a model that returns its loss."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model()

    def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.model, {"inputs": inputs, "targets": targets})}


def with_trainer(task: Task, setting: Setting) -> Measured:
    clock = Clock(task)

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return (
                self.accelerator.prepare(loader(task, setting)) if setting.batched else super().get_train_dataloader()
            )

        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            self.last = super().training_step(*arguments, **named)
            return self.last

    class TrainerClock(transformers.TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock(trainer.last)

    optim = {"optim": "adamw_torch_fused"} if setting.fused else {}
    same = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0} if setting.batched else {}
    settings = transformers.TrainingArguments(
        output_dir="trainer",
        max_steps=task.steps,
        per_device_train_batch_size=task.batch,
        learning_rate=task.lr,
        weight_decay=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        bf16=setting.precision == "bf16",
        torch_compile=setting.compile,
        **optim,
        **same,
    )
    trainer = Trainer(model=Judged(task), args=settings, train_dataset=Samples(task), callbacks=[TrainerClock()])
    trainer.train()
    return clock.measured()


def ours(task: Task, setting: Setting) -> Measured:
    """With clipping, guards and a logged row in every step, which cannot be had without."""
    objective = NextToken() if task.targets.dim() > 1 else Classification()
    result = mw.train(
        task.model(),
        InMemory({"inputs": task.inputs, "targets": task.targets}),
        objective=objective,
        optimizer=AdamW(lr=task.lr, weight_decay=0.0),
        schedule=Constant(),
        batch=task.batch,
        budget=f"{task.steps} steps",
        clip=1e9 if setting.batched else 1.0,  # computed in every step, and as the rivals' it changes nothing
        precision=setting.precision,
        quiet=setting.batched,
    )
    return from_rows(task, result.run.metrics_path)


def ours_auto(task: Task) -> Measured:
    """The command's way: processes of their own, and a plan by measurement."""
    Path("recipe.yaml").write_text(
        f"{task.recipe}optimizer: {{use: adamw, lr: {task.lr}, weight_decay: 0.0}}\nschedule: constant\n"
        f"batch: {task.batch}\nbudget: {{steps: {task.steps}}}\n"
    )
    with Path("screen.txt").open("w") as screen:
        run = train("recipe.yaml", [], folder=Path("runs"), console=Console(file=screen))
    plan = run.plan()
    assert plan is not None
    chosen = (
        f"({plan.workers} x {plan.threads} threads, micro-batch {plan.micro_batch}, {plan.precision}, {plan.attention})"
    )
    return from_rows(task, run.metrics_path, chosen)


def from_rows(task: Task, path: Path, note: str = "") -> Measured:
    rows = [row for row in read_metrics(path) if row["kind"] == "step"]
    first, last = rows[task.warm_up - 1], rows[-1]
    loss = sum(row["loss"] for row in rows[-LAST:]) / LAST
    return Measured(first["time"], last["time"], last["step"] - first["step"], loss, note)


ARMS: dict[str, Callable[[Task, Setting], Measured]] = {
    "hand-written loop": plain,
    "accelerate": with_accelerate,
    "lightning": with_lightning,
    "transformers Trainer": with_trainer,
    "modelwright": ours,
}

# https://huggingface.co/docs/transformers/perf_train_cpu: bf16 autocast on CPUs that have it.
# https://huggingface.co/docs/transformers/torch_compile: compile with inductor.
# https://huggingface.co/docs/accelerate/package_reference/accelerator: mixed_precision, dynamo_backend.
# https://lightning.ai/docs/pytorch/stable/common/trainer.html: barebones, precision; .../advanced/compile.html.
# https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html: fused optimizer, batched reads, bf16.
_PLAIN = {
    "fp32, fused, batched reads": Setting(fused=True, batched=True),
    "bf16, fused, batched reads": Setting(fused=True, batched=True, precision="bf16"),
    "bf16, fused, batched reads, compiled": Setting(fused=True, batched=True, precision="bf16", compile=True),
}
_BARE = {words: Setting(**{**vars(setting), "extra": {"barebones": True}}) for words, setting in _PLAIN.items()}
BEST: dict[str, dict[str, Setting]] = {
    "hand-written loop": _PLAIN,
    "accelerate": _PLAIN,
    "lightning": _BARE,
    "transformers Trainer": _PLAIN,
}
