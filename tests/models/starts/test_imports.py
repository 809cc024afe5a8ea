from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.models.starts.imports import read_checkpoint
from modelwright.models.starts.start import Start
from modelwright.models.starts.starting import load_start


class Settings:
    """A class of the user's own, as Lightning keeps among the arguments."""


def lightning_file(path: Path, **more: object) -> nn.Module:
    model = nn.Linear(3, 2)
    torch.save(
        {
            "epoch": 2,
            "global_step": 40,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
            "lr_schedulers": [],
            **more,
        },
        path,
    )
    return model


def test_a_lightning_file_gives_its_weights_and_tells_the_rest(tmp_path: Path) -> None:
    model, events = lightning_file(tmp_path / "last.ckpt"), list[Event]()
    other = nn.Linear(3, 2)
    with listening(events.append):
        loaded = load_start(other, Start(checkpoint=tmp_path / "last.ckpt"))
    assert torch.equal(other.weight, model.weight)
    assert (loaded.step, loaded.epoch, loaded.left) == (40, 2.0, ("the optimizer's state",))
    assert [event.kind for event in events] == ["start-renamed", "start-loaded", "start-left"]


def test_a_lightning_file_with_a_class_of_the_users_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path, clean = tmp_path / "last.ckpt", tmp_path / "clean.ckpt"
    model = lightning_file(path, hyper_parameters={"settings": Settings()})
    with pytest.raises(ModelwrightError, match="Settings") as raised:
        read_checkpoint(path)
    assert "'state_dict'" in raised.value.remedy
    torch.save({"state_dict": torch.load(path, weights_only=False)["state_dict"]}, clean)  # what the remedy says
    assert torch.equal(read_checkpoint(clean).tensors["model.weight"], model.weight)


def test_a_plain_state_dict_is_a_checkpoint_too(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "plain.ckpt")
    found = read_checkpoint(tmp_path / "plain.ckpt")
    assert (found.kind, found.step, found.left) == ("torch", None, ())


def test_a_trainer_folder_gives_its_weights_and_tells_the_rest(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 7, "epoch": 0.5}))
    for name in ("optimizer.pt", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"never read")
    found = read_checkpoint(tmp_path)
    assert (found.kind, found.step, found.epoch) == ("trainer", 7, 0.5)
    assert found.left == ("the optimizer's state", "the states of the random generators")
    (tmp_path / "trainer_state.json").write_text("[]")
    with pytest.raises(ModelwrightError, match="no mapping"):
        read_checkpoint(tmp_path)
