from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.models.starts.start import Start
from modelwright.models.starts.starting import load_start

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own imports
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 32}


def fresh(seed: int) -> Any:
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**CONFIG))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_the_trainer_wrote(tmp_path: Path) -> None:
    model, tokens = fresh(0), torch.randint(32, (8, 6))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        save_steps=3,
        per_device_train_batch_size=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="no",
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
    other = fresh(1)
    loaded = load_start(other, Start(checkpoint=tmp_path / "checkpoint-3"))
    with torch.no_grad():
        assert torch.equal(other.eval()(tokens).logits, model.eval()(tokens).logits)
    assert loaded.step == 3
    assert loaded.epoch == pytest.approx(0.75)
    assert {"the optimizer's state", "the state of the schedule", "the Trainer's arguments"} <= set(loaded.left)
