from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from modelwright.models.starts.start import Start
from modelwright.models.starts.starting import load_start

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    lightning = pytest.importorskip("lightning.pytorch")


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_lightning_wrote(tmp_path: Path) -> None:
    module = Module(width=4)
    data = TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    loaded = load_start(model, Start(checkpoint=tmp_path / "last.ckpt"))
    inputs = torch.randn(5, 3)
    assert torch.equal(model(inputs), module.net(inputs))
    assert (loaded.step, loaded.epoch) == (6, 2.0)
    assert {"the optimizer's state", "the module's arguments"} <= set(loaded.left)
