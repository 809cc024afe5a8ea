"""The job on Accelerate.

https://huggingface.co/docs/accelerate/usage_guides/checkpoint: save_state, load_state, skip_first_batches; loop and
names of the folders as in https://github.com/huggingface/accelerate/blob/main/examples/by_feature/checkpointing.py.
https://huggingface.co/docs/accelerate/package_reference/utilities#accelerate.DataLoaderConfiguration: with
``--seedable`` use_seedable_sampler, and set_epoch of the prepared loader, by which that sampler goes; with
``--stateful`` use_stateful_dataloader, and then no batches are skipped.
"""

from __future__ import annotations

import job
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from torch.nn import functional
from torch.utils.data import DataLoader


def main() -> None:
    options = job.wishes("seedable", "stateful")
    checkpoints, log = options.folder / "checkpoints", job.Log(options.folder)
    set_seed(job.SEED)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=job.ACCUMULATION,
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=options.seedable, use_stateful_dataloader=options.stateful
        ),
    )
    model = job.classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.RATE, weight_decay=job.WEIGHT_DECAY)
    model, optimizer, batches, schedule = accelerator.prepare(
        model,
        optimizer,
        DataLoader(job.Digits(options.folder), batch_size=job.MICRO_BATCH, shuffle=True),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job.STEPS),
    )
    step = 0
    checkpoint = job.newest(job.numbered(checkpoints, "step_"), options.passed_over)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        step = int(checkpoint.name.removeprefix("step_"))
    first_epoch, skipped = divmod(step * job.ACCUMULATION, len(batches))

    for epoch in range(first_epoch, job.EPOCHS):
        active = batches
        if epoch == first_epoch and skipped and not options.stateful:
            active = accelerator.skip_first_batches(batches, skipped)
        if options.seedable:
            active.set_epoch(epoch)
        for batch in active:
            with accelerator.accumulate(model):
                loss = functional.cross_entropy(model(batch["inputs"]), batch["targets"])
                log(step + 1, batch["index"], loss)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), job.CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                if step % job.EVERY == 0:
                    accelerator.save_state(str(checkpoints / f"step_{step}"))
    job.finish(options.folder, accelerator.unwrap_model(model))


if __name__ == "__main__":
    main()
