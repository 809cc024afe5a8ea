"""The Trainer of transformers.

``default``: what its documentation calls precise, average_tokens_across_devices and the model's own loss, which is
given num_items_in_batch. ``average_tokens_across_devices=False``; and ``compute_loss``: a method of one's own without
num_items_in_batch, as in its guide "Subclassing Trainer methods" (or a model whose forward takes no keyword
arguments). Layouts by https://raw.githubusercontent.com/huggingface/transformers/main/docs/source/en/fsdp.md
(``fsdp=True``), DistributedConfig (``native``), and Accelerate's ParallelismConfig; ``lifted`` as in
``on_accelerate.py``.
"""

from __future__ import annotations

import tempfile
from typing import Any

import job
import on_accelerate
from accelerate import ParallelismConfig
from torch import Tensor, nn
from torch.optim import SGD
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

DEFAULT, APART, OWN = "default", "average_tokens_across_devices=False", "compute_loss"


class OwnLoss(Trainer):
    loss_is_scaled_for_ga = False  # as its documentation asks of a mean of each batch

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"])
        loss = job.loss(outputs.logits, inputs)
        return (loss, outputs) if return_outputs else loss


def train(cell: job.Cell) -> job.Outcome:
    if "lifted" in cell.setting:
        on_accelerate.lift()
    own = OWN in cell.setting
    made = OwnLoss if own else Trainer
    with tempfile.TemporaryDirectory() as folder:
        trainer = made(
            model=loaded(cell),
            args=settings(cell, folder),
            train_dataset=job.Sequences(cell.condition),
            optimizer_cls_and_kwargs=(SGD, {"lr": job.RATE}),
        )
        trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return job.Outcome(
        losses=[row["loss"] for row in rows],
        norms=[row["grad_norm"] for row in rows],
        weights=weights(cell, trainer),
        held=job.held(trainer.model, cell.condition),
    )


def settings(cell: job.Cell, folder: str) -> TrainingArguments:
    special: dict[str, Any] = {}
    if cell.size("shard") * cell.size("context") > 1 and "native" not in cell.setting:
        version = 1 if "FSDP1" in cell.setting else 2
        special["fsdp"] = True
        layers = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "sync_module_states": False}
        special["fsdp_config"] = {"version": version, **layers}
    if set(cell.layout) != {"replicate"} and "native" not in cell.setting and "FSDP1" not in cell.setting:
        special["parallelism_config"] = ParallelismConfig(
            dp_replicate_size=cell.size("replicate"), dp_shard_size=cell.size("shard"), cp_size=cell.size("context")
        )
    return TrainingArguments(
        output_dir=folder,
        max_steps=job.STEPS,
        per_device_train_batch_size=cell.micro_batch,
        gradient_accumulation_steps=cell.condition.accumulation,
        average_tokens_across_devices=APART not in cell.setting,
        learning_rate=job.RATE,
        lr_scheduler_type="constant",
        max_grad_norm=cell.condition.clip or 0.0,
        bf16=cell.condition.autocast,
        train_sampling_strategy="sequential",
        use_cpu="lifted" not in cell.setting,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        **special,
    )


def loaded(cell: job.Cell) -> Any:
    if "native" not in cell.setting:
        return job.model(cell.condition)
    sizes = {"dp_replicate_size": "replicate", "fsdp_size": "shard", "tp_size": "tensor", "pp_size": "pipeline"}
    config = DistributedConfig(**{name: cell.size(axis) for name, axis in sizes.items() if cell.size(axis) > 1})
    return LlamaForCausalLM.from_pretrained(
        job.saved(cell.condition), distributed_config=config, dtype=cell.condition.data_type
    )


def weights(cell: job.Cell, trainer: Any) -> dict[str, Tensor]:
    if cell.size("shard") > 1 and "native" not in cell.setting:
        return on_accelerate.gathered(cell, trainer.accelerator, trainer.model_wrapped)
    return job.whole(trainer.model.state_dict().items())
