"""The job on Lightning.

https://lightning.ai/docs/pytorch/stable/common/checkpointing_intermediate.html: ModelCheckpoint, every_n_train_steps,
save_last. https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html: fit(ckpt_path=...).
https://lightning.ai/docs/pytorch/stable/common/trainer.html#reproducibility: seed_everything, deterministic.
With ``--stateful``, as Lightning's own warning at a resume inside an epoch advises ("make your dataloader resumable by
implementing the `state_dict` / `load_state_dict` interface"), the loader of
https://pytorch.org/data/0.11/stateful_dataloader_tutorial.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import job
import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self, log: job.Log) -> None:
        super().__init__()
        self.model, self.learnt = job.classifier(), log

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = functional.cross_entropy(self.model(batch["inputs"]), batch["targets"])
        self.learnt(self.global_step + 1, batch["index"], loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=job.RATE, weight_decay=job.WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job.STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader(folder: Path, stateful: bool) -> Any:
    if not stateful:
        return DataLoader(job.Digits(folder), batch_size=job.MICRO_BATCH, shuffle=True)
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(job.Digits(folder), batch_size=job.MICRO_BATCH, shuffle=True)


def start(folder: Path, passed_over: int) -> str | None:
    """``last``, or, where that cannot be loaded, the file before it."""
    if passed_over == 0:
        return "last"
    found = job.newest(sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime), passed_over)
    return None if found is None else str(found)


def main() -> None:
    options = job.wishes("stateful")
    checkpoints = options.folder / "checkpoints"
    lightning.seed_everything(job.SEED, workers=True)
    module = Classifier(job.Log(options.folder))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        deterministic=True,
        max_epochs=job.EPOCHS,
        accumulate_grad_batches=job.ACCUMULATION,
        gradient_clip_val=job.CLIP,
        callbacks=[ModelCheckpoint(checkpoints, every_n_train_steps=job.EVERY, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(options.folder, options.stateful), ckpt_path=start(checkpoints, options.passed_over))
    job.finish(options.folder, module.model)


if __name__ == "__main__":
    main()
