"""Lightning's Trainer.

``mean``: training_step returns the mean loss of its micro-batch, logged with sync_dist=True. ``manual``: manual
optimization (https://lightning.ai/docs/pytorch/stable/reference/common/optimization.md) of sums of losses, the
gradients divided by a count over all ranks (``all_gather``): the arithmetic is the user's. Norms by
lightning.pytorch.utilities.grad_norm in on_before_optimizer_step. Layouts: FSDPStrategy, which refuses a CPU, so
``lifted`` is a subclass of it, and ModelParallelStrategy as in
https://lightning.ai/docs/pytorch/stable/advanced/model_parallel/tp_fsdp.html.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import job
import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.data import DataLoader, DistributedSampler
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

MEAN, MANUAL = "mean", "manual"


class Lifted(FSDPStrategy):
    """Only FSDPStrategy itself is refused on a CPU."""


class Averaged(lightning.LightningModule):
    """The mean loss of each micro-batch."""

    def __init__(self, cell: job.Cell) -> None:
        super().__init__()
        self.model, self.cell, self.outcome = job.model(cell.condition), cell, job.Outcome()
        self.means: list[float] = []

    def training_step(self, batch: job.Batch, index: int) -> Tensor:
        loss = job.loss(self.model(batch["input_ids"]).logits, batch)
        self.log("loss", loss, on_step=True, on_epoch=False, sync_dist=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.means.append(self.trainer.callback_metrics["loss"].item())
        if len(self.means) == self.cell.condition.accumulation:
            self.outcome.losses.append(sum(self.means) / len(self.means))
            self.means.clear()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.outcome.norms.append(self.norm())

    def norm(self) -> float:
        """By Lightning's own function, unless parameters are divided, which it fails at."""
        if "ModelParallel" not in self.cell.setting:
            return float(grad_norm(self, norm_type=2)["grad_2.0_norm_total"])
        return math.hypot(*(number(parameter.grad.norm()) for parameter in self.parameters()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return job.sgd(self.parameters())


class Manual(Averaged):
    """Sums of losses; before the step the gradients are divided by the number of targets."""

    def __init__(self, cell: job.Cell) -> None:
        super().__init__(cell)
        self.automatic_optimization = False
        self.total, self.count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def training_step(self, batch: job.Batch, index: int) -> None:
        last = (index + 1) % self.cell.condition.accumulation == 0
        loss = job.loss(self.model(batch["input_ids"]).logits, batch, "sum")
        self.manual_backward(loss)
        self.total, self.count = self.total + loss.detach(), self.count + job.valid(batch)
        if last:
            self._step()

    def _step(self) -> None:
        ranks, clip = self.trainer.world_size, self.cell.condition.clip
        count, optimizer = self.all_gather(self.count).sum(), self.optimizers()
        for parameter in self.parameters():
            parameter.grad.mul_(ranks / count)
        self.outcome.losses.append((self.all_gather(self.total).sum() / count).item())
        if clip is not None:
            self.outcome.norms.append(self.norm())
            self.clip_gradients(optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad()
        self.total, self.count = torch.zeros_like(self.total), torch.zeros_like(self.count)

    def on_train_batch_end(self, *_: Any) -> None:
        pass

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.cell.condition.clip is None:
            super().on_before_optimizer_step(optimizer)


def train(cell: job.Cell) -> job.Outcome:
    warnings.simplefilter("ignore")
    made = Manual if MANUAL in cell.setting else Averaged
    module = divided(made)(cell) if "ModelParallel" in cell.setting else made(cell)
    automatic = MANUAL not in cell.setting
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=cell.world,
        strategy=strategy(cell),
        precision=precision(cell),
        max_epochs=1,
        use_distributed_sampler=False,
        accumulate_grad_batches=cell.condition.accumulation if automatic else 1,
        gradient_clip_val=cell.condition.clip if automatic else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, in_order(cell))
    outcome = module.outcome
    outcome.held = job.held(module.model, cell.condition)
    outcome.weights = gathered(cell, trainer, module)
    return outcome


def precision(cell: job.Cell) -> Any:
    """Strategies that shard know no 64-true; 32-true leaves the model as it is."""
    return "bf16-mixed" if cell.condition.autocast else "64-true" if is_replicated(cell) else "32-true"


def in_order(cell: job.Cell) -> DataLoader[job.Batch]:
    """With a sampler of one's own, as the one that Lightning puts in shuffles."""
    sequences, rank = job.Sequences(cell.condition), int(os.environ["RANK"]) // cell.size("tensor")
    sampler = DistributedSampler(sequences, num_replicas=cell.data, rank=rank, shuffle=False)
    return DataLoader(sequences, batch_size=cell.micro_batch, sampler=sampler)


def is_replicated(cell: job.Cell) -> bool:
    return set(cell.layout) == {"replicate"}


def strategy(cell: job.Cell) -> Any:
    if is_replicated(cell):
        return DDPStrategy(process_group_backend="gloo")
    if "ModelParallel" in cell.setting:
        return ModelParallelStrategy(
            data_parallel_size=cell.data, tensor_parallel_size=cell.size("tensor"), process_group_backend="gloo"
        )
    made = Lifted if "lifted" in cell.setting else FSDPStrategy
    return made(auto_wrap_policy={LlamaDecoderLayer}, sharding_strategy="FULL_SHARD", process_group_backend="gloo")


def divided(kind: type[Averaged]) -> type[Averaged]:
    """With the configure_model that ModelParallelStrategy asks for."""

    class Divided(kind):  # type: ignore[misc, valid-type]
        def configure_model(self) -> None:
            if self.device_mesh["tensor_parallel"].size() > 1:
                divide(self.model, self.device_mesh["tensor_parallel"])
            if self.device_mesh["data_parallel"].size() > 1:
                for layer in self.model.model.layers:
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

    return Divided


def divide(model: nn.Module, mesh: Any) -> None:
    """Llama's linear maps over the mesh."""
    columns = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    plan: dict[str, Any] = {"model.layers.*.self_attn." + name: ColwiseParallel() for name in columns[:3]}
    plan |= {"model.layers.*.mlp." + name: ColwiseParallel() for name in columns[3:]}
    plan |= {"model.layers.*.self_attn.o_proj": RowwiseParallel(), "model.layers.*.mlp.down_proj": RowwiseParallel()}
    parallelize_module(model, mesh, plan)


def number(value: Any) -> float:
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)


def gathered(cell: job.Cell, trainer: lightning.Trainer, module: Averaged) -> dict[str, Tensor]:
    state = module.state_dict()
    if not is_replicated(cell) and "ModelParallel" not in cell.setting:
        state = trainer.strategy.lightning_module_state_dict()
    return {name.removeprefix("model."): value for name, value in job.whole(state.items()).items()}
