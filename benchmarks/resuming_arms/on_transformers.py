"""The job on the Trainer of transformers.

https://huggingface.co/docs/transformers/trainer#checkpoints: train(resume_from_checkpoint=True), or a folder.
https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments: save_steps,
seed, full_determinism.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import job
import transformers
from torch import Tensor, nn
from torch.nn import functional


class Trainer(transformers.Trainer):
    learnt: job.Log

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(inputs["inputs"])
        loss = functional.cross_entropy(outputs, inputs["targets"])
        self.learnt(self.state.global_step + 1, inputs["index"], loss)
        return (loss, outputs) if return_outputs else loss


def start(folder: Path, passed_over: int) -> bool | str:
    """The newest, as the library finds it; or, where that cannot be loaded, the one before it."""
    found = job.newest(job.numbered(folder, "checkpoint-"), passed_over)
    return False if found is None else str(found) if passed_over else True


def main() -> None:
    options = job.wishes()
    checkpoints = options.folder / "checkpoints"
    transformers.set_seed(job.SEED)
    settings = transformers.TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=job.EPOCHS,
        per_device_train_batch_size=job.MICRO_BATCH,
        gradient_accumulation_steps=job.ACCUMULATION,
        learning_rate=job.RATE,
        lr_scheduler_type="cosine",
        weight_decay=job.WEIGHT_DECAY,
        max_grad_norm=job.CLIP,
        save_strategy="steps",
        save_steps=job.EVERY,
        seed=job.SEED,
        full_determinism=True,
        use_cpu=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    model = job.classifier()
    trainer = Trainer(model=model, args=settings, train_dataset=job.Digits(options.folder))
    trainer.learnt = job.Log(options.folder)
    trainer.train(resume_from_checkpoint=start(checkpoints, options.passed_over))
    job.finish(options.folder, model)


if __name__ == "__main__":
    main()
