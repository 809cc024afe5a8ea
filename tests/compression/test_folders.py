"""Pruned models of transformers come back from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compression.structure.architectures import case, forward

from modelwright.base.errors import ModelwrightError
from modelwright.compression import prune

transformers = pytest.importorskip("transformers")
from modelwright.compression.folders import FILE, load_folder, save_folder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

COVERING = (("llama", ("kv-group", "unit", "width")), ("bert", ("head",)))


def fresh(name: str) -> tuple[Any, dict[str, Any]]:
    """As a config makes it, but for the weights: what no file holds is as the code computes it."""
    model, inputs = case(name)
    made: Any = type(model)(model.config).double().eval()
    made.load_state_dict(model.state_dict())
    return made, inputs


@pytest.mark.parametrize(
    ("name", "kinds", "plain"),
    [
        ("llama", ("kv-group", "unit"), True),
        ("llama", ("kv-group", "unit", "width"), True),
        ("bert", ("unit",), False),  # the pooler's units are no number of the config
        ("vit-stock", ("unit",), True),
        ("bert", ("head",), False),
        ("gpt2", ("unit", "head", "width"), False),
        ("t5", ("unit", "head"), True),
        ("t5", ("unit", "head", "width"), False),  # its code divides by the root of the config's width
    ],
)
def test_folders_give_the_same_model(
    name: str, kinds: tuple[str, ...], plain: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if (name, kinds) not in COVERING and not request.config.getoption("--full"):
        pytest.skip("one of those like it runs; --full runs all")
    model, inputs = fresh(name)
    pruned = prune(model, inputs, keep=0.5, kinds=kinds, forward=forward)
    folder = tmp_path / "pruned"
    assert save_folder(pruned.model, [pruned.change], model, inputs, folder) == plain
    with torch.no_grad():
        expected = forward(pruned.model, inputs)
        torch.testing.assert_close(forward(load_folder(folder), inputs), expected, rtol=1e-12, atol=1e-12)
        if not plain:
            with pytest.raises(OSError, match=r"model\.safetensors"):
                type(model).from_pretrained(folder)
            return
        loaded = type(model).from_pretrained(folder, dtype=torch.float64)
        torch.testing.assert_close(forward(loaded, inputs), expected, rtol=1e-12, atol=1e-12)


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path) -> None:
    for text in (None, "{}", '{"model": "Nobody", "config": {}, "changes": []}'):
        if text is not None:
            (tmp_path / FILE).write_text(text)
        with pytest.raises(ModelwrightError, match="no folder of a changed model"):
            load_folder(tmp_path)
