from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.files import file_hash, write_json
from modelwright.models.gpt import GPT
from modelwright.models.mlp import MLP
from modelwright.models.source import save_weights
from modelwright.models.starts.start import Start
from modelwright.models.starts.starting import load_start
from modelwright.recipe.scalars import scalar
from modelwright.runs import Run


def gpt(seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    return GPT(**{"vocabulary": 17, "layers": 2, "width": 8, "heads": 2, "tied_embeddings": False, **settings}).build()


def mlp(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(features=4, classes=classes, hidden=(5, 5)).build()


def written(model: nn.Module, path: Path, name: Callable[[str], str] = str) -> Path:
    save_file({name(key): tensor.clone() for key, tensor in model.state_dict().items()}, path)
    return path


def same(first: nn.Module, second: nn.Module, but: str = "\0") -> bool:
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items() if but not in name)


def remedied(start: Start, model: nn.Module) -> Start:
    """The start that the refusal's remedy writes, read as a user would write it."""
    with pytest.raises(ModelwrightError) as raised:
        load_start(model, start)
    remedy = raised.value.remedy
    assert remedy.startswith("write below 'start:'  "), remedy
    fields: dict[str, Any] = {}
    for name, value in re.findall(r"(\w+): (\{.*?\}|\[.*?\]|\w+)(?:, (?=\w)|$)", remedy.split("'start:'  ")[1]):
        fields[name] = json.loads(value) if value[0] in "{[" else scalar(value)
    return Start(weights=start.weights, **{**fields, "drop": tuple(fields.get("drop", ()))})


def test_weights_that_fit_are_taken(tmp_path: Path) -> None:
    model = gpt(1)
    loaded = load_start(model, Start(weights=written(gpt(0), tmp_path / "w.safetensors")))
    assert same(model, gpt(0))
    assert not same(model, gpt(1))
    assert (len(loaded.taken), loaded.fresh, loaded.unused) == (len(model.state_dict()), (), ())


@pytest.mark.parametrize("beginning", ["model.", "module.", "_orig_mod.", "net."])
def test_a_beginning_of_every_name_is_taken_off_and_told(tmp_path: Path, beginning: str) -> None:
    model, events = gpt(1), list[Event]()
    with listening(events.append):
        load_start(model, Start(weights=written(gpt(0), tmp_path / "w.safetensors", lambda name: beginning + name)))
    assert same(model, gpt(0))
    assert events[0].kind == "start-renamed"
    assert events[0].details["beginning"] == beginning


def test_a_remedy_for_other_names_works(tmp_path: Path) -> None:
    def theirs(name: str) -> str:
        return name.replace("blocks.", "transformer.h.").replace("embedding.", "transformer.wte.")

    start = Start(weights=written(gpt(0), tmp_path / "w.safetensors", theirs))
    model, before = gpt(1), gpt(1)
    cured = remedied(start, model)
    assert same(model, before)  # all or nothing
    assert cured.rename == {"transformer.h.": "blocks.", "transformer.wte.": "embedding."}
    load_start(model, cured)
    assert same(model, gpt(0))


def test_a_head_of_another_size_is_left_to_the_seed(tmp_path: Path) -> None:
    start = Start(weights=written(mlp(0, classes=7), tmp_path / "w.safetensors"))
    model = mlp(1)
    cured = remedied(start, model)
    assert cured.drop == ("head",)
    loaded = load_start(model, cured)
    assert loaded.fresh == ("head.weight", "head.bias")
    assert set(loaded.unused) == {"head.weight", "head.bias"}
    assert same(model, mlp(0, classes=7), but="head")
    assert torch.equal(model.head.weight, mlp(1).head.weight)  # type: ignore[arg-type, union-attr]


def test_head_auto_does_the_same_whether_the_source_has_one_or_not(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in mlp(0).state_dict().items() if "head" not in name}
    save_file(without, tmp_path / "without.safetensors")
    for path in (written(mlp(0, 7), tmp_path / "w.safetensors"), tmp_path / "without.safetensors"):
        model = mlp(1)
        assert load_start(model, Start(weights=path, head="auto")).fresh == ("head.weight", "head.bias")
        assert same(model, mlp(0, 7), but="head")


def test_too_much_and_too_little_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in gpt(0).state_dict().items() if name != "norm.weight"}
    save_file({**state, "rope.frequencies": torch.ones(2)}, tmp_path / "w.safetensors")
    model = gpt(1)
    with pytest.raises(ModelwrightError) as raised:
        load_start(model, Start(weights=tmp_path / "w.safetensors"))
    assert "missing in the source: norm.weight" in raised.value.what
    assert "unknown to the model: rope.frequencies" in raised.value.what
    assert raised.value.where == str(tmp_path / "w.safetensors")
    cured = remedied(Start(weights=tmp_path / "w.safetensors"), model)
    assert (cured.drop, cured.missing) == (("rope",), "allow")
    assert load_start(model, cured).fresh == ("norm.weight",)
    allowed = Start(weights=tmp_path / "w.safetensors", missing="allow", unexpected="allow")
    assert load_start(model, allowed).unused == ("rope.frequencies",)


def test_missing_allow_does_not_let_everything_be_missing(tmp_path: Path) -> None:
    path = written(nn.Linear(40, 2), tmp_path / "w.safetensors", lambda name: f"other.net.{name}")
    with pytest.raises(ModelwrightError, match="missing in the source") as raised:
        load_start(gpt(), Start(weights=path, missing="allow", unexpected="allow"))
    assert "of another model" in raised.value.remedy


def test_casts_are_exact_where_they_can_be_and_told(tmp_path: Path) -> None:
    half = gpt(0).bfloat16()
    path, model, events = written(half, tmp_path / "w.safetensors"), gpt(1), list[Event]()
    with listening(events.append):
        loaded = load_start(model, Start(weights=path))
    assert same(model, gpt(0).bfloat16().float())
    assert loaded.casts == {"bfloat16 to float32, exact": len(loaded.taken)}
    assert "start-cast" in [event.kind for event in events]
    rounded = load_start(gpt(1).half(), Start(weights=path)).casts
    assert rounded == {"bfloat16 to float16, rounded": len(loaded.taken)}


@pytest.mark.parametrize("kept", ["embedding.weight", "head.weight"])
def test_a_tied_weight_may_be_named_once_by_either_name(tmp_path: Path, kept: str) -> None:
    state = {name: tensor.clone() for name, tensor in gpt(0, tied_embeddings=True).state_dict().items()}
    del state["head.weight" if kept == "embedding.weight" else "embedding.weight"]
    save_file(state, tmp_path / "w.safetensors")
    model = gpt(1, tied_embeddings=True)
    load_start(model, Start(weights=tmp_path / "w.safetensors"))
    assert same(model, gpt(0, tied_embeddings=True))


def test_a_remedy_knows_what_is_tied(tmp_path: Path) -> None:
    state = gpt(0, tied_embeddings=True).state_dict()
    state = {f"h.{name}": tensor for name, tensor in state.items() if name != "head.weight"} | {"more": torch.ones(1)}
    save_file(state, tmp_path / "w.safetensors")
    model = gpt(1, tied_embeddings=True)
    cured = remedied(Start(weights=tmp_path / "w.safetensors"), model)
    assert (cured.rename, cured.drop, cured.missing) == ({"h.": ""}, ("more",), "error")
    load_start(model, cured)
    assert same(model, gpt(0, tied_embeddings=True))


def test_two_tensors_cannot_start_one_tied_weight(tmp_path: Path) -> None:
    path = written(gpt(0), tmp_path / "w.safetensors")
    with pytest.raises(ModelwrightError, match="two different tensors") as raised:
        load_start(gpt(1, tied_embeddings=True), Start(weights=path))
    assert "without tied weights" in raised.value.remedy


def test_renames_and_drops_that_do_nothing_are_slips(tmp_path: Path) -> None:
    path = written(gpt(0), tmp_path / "w.safetensors")
    with pytest.raises(ModelwrightError, match="begins with 'modle"):
        load_start(gpt(), Start(weights=path, rename={"modle.": ""}))
    with pytest.raises(ModelwrightError, match="no name fits the pattern 'haed'") as raised:
        load_start(gpt(), Start(weights=path, drop=("haed",)))
    assert raised.value.remedy == "did you mean 'head'?"
    with pytest.raises(ModelwrightError, match=r"would both become 'blocks.0"):
        load_start(gpt(), Start(weights=path, rename={"blocks.1.": "blocks.0."}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one source, not 0"),
        ({"run": "a", "weights": Path("b")}, "one source, not 2: run, weights"),
        ({"run": "a", "missing": "allowed"}, "'missing' is error or allow"),
        ({"run": "a", "rename": {"a": "*"}}, "more"),
    ],
)
def test_what_makes_no_start_is_refused_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelwrightError, match=re.escape(message)):
        Start(**fields)


def test_a_run_that_is_not_there_is_to_be_trained_first(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="nothing to start from") as caught:
        load_start(gpt(), Start(run=str(tmp_path / "first")))
    assert caught.value.where == "start.run"
    assert "--name first" in caught.value.remedy


def test_a_run_gives_its_newest_weights(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "first", "train")
    with pytest.raises(ModelwrightError, match="saved no weights yet"):
        load_start(gpt(), Start(run=str(run.path)))
    for step in (9, 10):
        (run.checkpoints / f"step-{step:08d}").mkdir(parents=True)
        weights = run.checkpoints / f"step-{step:08d}" / "model.safetensors"
        save_weights(gpt(step), weights)
        noted = {"bytes": weights.stat().st_size, "sha256": file_hash(weights)}
        write_json(weights.parent / "manifest.json", {"format": 1, "files": {weights.name: noted}})
    model = gpt(1)
    loaded = load_start(model, Start(run=str(run.path)))
    assert same(model, gpt(10))
    assert loaded.step == 10
    weights.write_bytes(weights.read_bytes()[:-1])
    assert load_start(model, Start(run=str(run.path))).step == 9  # a damaged one is passed over, as by every verb


def test_buffers_start_too(tmp_path: Path) -> None:
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    first(torch.randn(5, 2))
    load_start(second, Start(weights=written(first, tmp_path / "w.safetensors")))
    assert isinstance(second[1].running_mean, Tensor)
    assert torch.equal(second[1].running_mean, first[1].running_mean)  # type: ignore[arg-type]
