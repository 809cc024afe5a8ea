"""Accelerate.

``mean``: the loop of https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation, with the mean loss of
each micro-batch. ``num_items_in_batch``: the same page, "Gradient accumulation on training samples of variable size".
Layouts by https://huggingface.co/blog/accelerate-nd-parallel and, for sequences,
https://huggingface.co/docs/accelerate/concept_guides/context_parallelism. With ``lifted`` the CPU is passed off as an
accelerator of a kind that Accelerate lets shard, as without that it does not.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import job
import torch
from accelerate import Accelerator, ParallelismConfig
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM
from transformers.distributed import DistributedConfig

MEAN, ITEMS = "mean", "num_items_in_batch"


def train(cell: job.Cell) -> job.Outcome:
    if "lifted" in cell.setting:
        lift()
    accelerator = made_accelerator(cell)
    model = loaded(cell, accelerator)
    loader = DataLoader(job.Sequences(cell.condition), batch_size=cell.micro_batch, shuffle=False)
    model, optimizer, loader = accelerator.prepare(model, job.sgd(model.parameters()), loader)
    outcome = job.Outcome(held=job.held(model, cell.condition))
    if ITEMS in cell.setting:
        count_items(cell, accelerator, model, optimizer, loader, outcome)
    else:
        average(cell, accelerator, model, optimizer, loader, outcome)
    outcome.weights = gathered(cell, accelerator, model)
    return outcome


def gathered(cell: job.Cell, accelerator: Any, model: Any) -> dict[str, Tensor]:
    """Not by get_state_dict for FSDP1, which ends in a segmentation fault on a CPU."""
    if isinstance(model, FullyShardedDataParallel):
        return job.summoned(model)
    state = model.state_dict() if cell.size("tensor") > 1 else accelerator.get_state_dict(model)
    return job.whole(state.items())


def made_accelerator(cell: job.Cell) -> Any:
    plugin, parallelism = None, None
    if cell.size("shard") > 1 or cell.size("context") > 1:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=1 if "FSDP1" in cell.setting else 2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            state_dict_type="FULL_STATE_DICT",
            cpu_ram_efficient_loading=False,
            **sharding(cell),
        )
    if set(cell.layout) != {"replicate"} and "FSDP1" not in cell.setting:
        parallelism = ParallelismConfig(
            dp_replicate_size=cell.size("replicate"),
            dp_shard_size=cell.size("shard"),
            tp_size=cell.size("tensor"),
            cp_size=cell.size("context"),
        )
    return Accelerator(
        cpu="lifted" not in cell.setting,
        mixed_precision="bf16" if cell.condition.autocast else "no",
        gradient_accumulation_steps=cell.condition.accumulation,
        fsdp_plugin=plugin,
        parallelism_config=parallelism,
    )


def sharding(cell: job.Cell) -> dict[str, Any]:
    if "FSDP1" not in cell.setting:
        return {"reshard_after_forward": True}
    return {"sharding_strategy": "FULL_SHARD", "use_orig_params": True}


def lift() -> None:
    """Pass the CPU off as a GPU whose backend is gloo."""
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    torch.distributed.init_process_group("gloo")


def loaded(cell: job.Cell, accelerator: Any) -> Any:
    if cell.size("tensor") == 1:
        return job.model(cell.condition)
    sizes: dict[str, Any] = {"distributed_config": DistributedConfig(tp_size=cell.size("tensor"))}
    if cell.data > 1:
        sizes = {"tp_size": cell.size("tensor"), "device_mesh": accelerator.torch_device_mesh}
    return LlamaForCausalLM.from_pretrained(job.saved(cell.condition), dtype=cell.condition.data_type, **sizes)


def average(cell: job.Cell, accelerator: Any, model: Any, optimizer: Any, loader: Any, outcome: job.Outcome) -> None:
    """Of each micro-batch the mean loss; what is reported is the mean of the means."""
    means: list[float] = []
    for batch in loader:
        with accelerator.accumulate(model):
            with parts(cell, accelerator, batch):
                found = mean_loss(cell, model, batch)
                accelerator.backward(found)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), cell.condition.clip or math.inf)
                outcome.norms.append(full(norm))
            optimizer.step()
            optimizer.zero_grad()
        means.append(accelerator.gather(found.detach()).mean().item())
        if accelerator.sync_gradients:
            outcome.losses.append(sum(means) / len(means))
            means.clear()


def count_items(
    cell: job.Cell, accelerator: Any, model: Any, optimizer: Any, loader: Any, outcome: job.Outcome
) -> None:
    """The micro-batches of a step first, then their targets counted over all processes."""
    iterator = iter(loader)
    for _ in range(job.STEPS):
        batches = [next(iterator) for _ in range(cell.condition.accumulation)]
        items = accelerator.gather(sum(job.valid(batch) for batch in batches)).sum().item()
        total = torch.zeros((), dtype=torch.float64)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(model):
                found = job.loss(model(batch["input_ids"]).logits, batch, "sum")
                scaled = found * accelerator.gradient_accumulation_steps * accelerator.num_processes / items
                accelerator.backward(scaled)
            total += found.detach() / items
        accelerator.sync_gradients = True
        outcome.norms.append(full(accelerator.clip_grad_norm_(model.parameters(), cell.condition.clip or math.inf)))
        optimizer.step()
        optimizer.zero_grad()
        outcome.losses.append(accelerator.reduce(total, "sum").item())


def parts(cell: job.Cell, accelerator: Any, batch: dict[str, Tensor]) -> AbstractContextManager[object]:
    """Each rank's part of the sequences, where these are divided."""
    if cell.size("context") == 1:
        return nullcontext()
    batch["shift_labels"] = functional.pad(batch["labels"], (0, 1), value=job.IGNORED)[:, 1:].contiguous()
    batch["position_ids"] = torch.arange(job.TIME).expand(len(batch["labels"]), -1).contiguous()
    buffers = [batch[name] for name in ("input_ids", "shift_labels", "position_ids")]
    found: AbstractContextManager[object] = accelerator.maybe_context_parallel(
        buffers=buffers, buffer_seq_dims=[1, 1, 1], no_restore_buffers=set(buffers)
    )
    return found


def mean_loss(cell: job.Cell, model: Any, batch: dict[str, Tensor]) -> Tensor:
    if cell.size("context") == 1:
        return job.loss(model(batch["input_ids"]).logits, batch)
    logits = model(batch["input_ids"], position_ids=batch["position_ids"]).logits
    targets = batch["shift_labels"].flatten()
    return functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=job.IGNORED)


def full(norm: Any) -> float:
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
