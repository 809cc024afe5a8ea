"""An export is judged before it is there: nothing wrong is left behind."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.export.cases import OWN, numbers, tokens
from torch import Tensor, nn

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.memory import InMemory
from modelwright.export import FORMATS
from modelwright.export import onnx as onnx_format
from modelwright.export.artefact import Exported, export
from modelwright.export.file_module import FileModule
from modelwright.export.judge import HeldOut, check_scores, differences
from modelwright.export.runtimes import runtime_of
from modelwright.objectives.classification import Classification

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported with


def held_out(samples: int = 400) -> HeldOut:
    """Numbers of which the first ones are small, and classes that the model below knows mostly."""
    inputs = numbers(samples, 8)
    inputs[:3].clamp_(-1, 1)
    with torch.no_grad():
        targets = OWN["mlp"].model()(inputs).argmax(-1)
    targets[::5] = (targets[::5] + 1) % 3
    return HeldOut(
        objective=Classification(), data=InMemory({"inputs": inputs, "targets": targets}), metrics=["accuracy"]
    )


def exported(path: Path, form: str | None = None, **options: Any) -> Exported:
    return export(OWN["mlp"].model(), path, form=form and f"tests.export.spoiling:{form}", **options)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_the_metric_of_the_file_is_the_metric_of_the_model(name: str, tmp_path: Path) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
    done = exported(tmp_path / name, held_out=held_out(), facts={"run": "mine"})
    assert done.reported["accuracy"] == done.found["accuracy"] == pytest.approx(0.8)
    assert done.found["loss"] == pytest.approx(done.reported["loss"], rel=1e-6)
    facts = runtime_of(done.path).facts(done.path)
    assert (facts["run"], facts["samples"], json.loads(facts["reported"])) == ("mine", "400", done.reported)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_weights_changed_by_a_hair_more_than_is_allowed(tmp_path: Path) -> None:
    assert exported(tmp_path / "within.pt2", "within", held_out=held_out()).distance == pytest.approx(9e-5, rel=0.05)
    with pytest.raises(ModelwrightError, match=r"the exported file is wrong: for the example .* 0\.00011 of their"):
        exported(tmp_path / "beyond.pt2", "beyond", held_out=held_out())
    assert [entry.name for entry in tmp_path.iterdir()] == ["within.pt2"]


def test_another_order_of_the_classes(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="the exported file is wrong"):
        exported(tmp_path / "model.pt2", "class_order", held_out=held_out())
    assert not any(tmp_path.iterdir())


def test_a_file_that_is_wrong_elsewhere_than_in_the_example(tmp_path: Path) -> None:
    exported(tmp_path / "unseen.pt2", "elsewhere", example=held_out().call(OWN["mlp"].model()))  # not noticed so
    with pytest.raises(ModelwrightError, match=r"does not keep what the model scores .*accuracy is 0\.\d+ in the file"):
        exported(tmp_path / "model.pt2", "elsewhere", held_out=held_out())
    assert not (tmp_path / "model.pt2").exists()


def test_a_file_in_the_place_of_the_model_is_scored(tmp_path: Path) -> None:
    judge, model = held_out(), OWN["mlp"].model()
    done = exported(tmp_path / "model.pt2", held_out=judge)
    found = judge.score(FileModule(runtime_of(done.path).open(done.path)))
    check_scores(judge.score(model), found, 400, done.path)
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight.flip(0))
    with pytest.raises(ModelwrightError, match="accuracy"):
        check_scores(judge.score(model), found, 400, done.path)


@pytest.mark.parametrize(
    ("name", "reported", "found", "samples", "same"),
    [
        ("accuracy", 0.9, 0.899, 10_000, True),
        ("accuracy", 0.9, 0.8989, 10_000, False),
        ("accuracy", 0.9, 0.895, 200, True),  # one sample
        ("accuracy", 0.9, 0.8949, 200, False),
        ("loss", 2.0, 2.0019, 200, True),
        ("loss", 2.0, 2.0021, 200, False),
        ("loss", float("nan"), 2.0, 200, False),
        ("loss", float("nan"), float("nan"), 200, True),
    ],
)
def test_what_counts_as_the_same(name: str, reported: float, found: float, samples: int, same: bool) -> None:
    assert (not differences({name: reported}, {name: found}, samples)) is same
    assert differences({name: 0.5}, {}, samples), "a score that is missing"


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("mine")
    with pytest.raises(ModelwrightError, match="something is there already"):
        exported(path, held_out=held_out())
    assert path.read_text() == "mine"
    assert exported(path, held_out=held_out(), force=True).bytes == path.stat().st_size > 4


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("model.bin", {}, "no format ends in '.bin'"),
        ("model.pt2", {}, "needs to know how the model is called"),
        ("model.pt2", {"example": (1, 2)}, "takes 1 arguments, and the example has 2"),
        ("model.pt2", {"example": {"inputs": 3}}, "no argument of the model is a tensor"),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match=reason):
        exported(tmp_path / name, **options)
    assert not any(tmp_path.iterdir())


class Branching(nn.Module):
    """What it does depends on numbers, not on sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_a_model_that_cannot_be_captured_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match=r"the model cannot be captured: .*data-dependent") as caught:
        export(Branching(), tmp_path / "model.pt2", numbers(3, 4))
    assert "export another format" in caught.value.remedy and not any(tmp_path.iterdir())


def test_what_is_held_in_16_bits_is_exported_in_float32(tmp_path: Path) -> None:
    told: list[Event] = []
    model = OWN["mlp"].model().bfloat16()
    with listening(told.append):
        export(model, tmp_path / "model.pt2", numbers(3, 8))
    assert "export-widened" in {event.kind for event in told}
    assert next(model.parameters()).dtype == torch.bfloat16


class Pairs(nn.Module):
    """A source of a length of its own, its mask, and a target."""

    def forward(self, inputs: Tensor, input_mask: Tensor, decoder_inputs: Tensor) -> Tensor:
        return (inputs * input_mask).sum(1, keepdim=True) * decoder_inputs.float()


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    done = export(Pairs(), tmp_path / "model.pt2", OWN["transformer"].arguments(3, 5))
    runner = runtime_of(done.path).open(done.path)
    inputs = OWN["transformer"].arguments(4, 6)
    for change, reason in (
        ({"inputs": inputs["inputs"].int()}, "int64"),
        ({"decoder_inputs": tokens(2, 6)}, "'batch' is 4 in the input 'inputs' and 2 in 'decoder_inputs'"),
        ({"input_mask": inputs["input_mask"][:, :5]}, "'length' is 12 in the input 'inputs' and 5"),
    ):
        with pytest.raises(ModelwrightError, match=reason):
            runner.run(inputs | change)
    with pytest.raises(ModelwrightError, match="needs the input 'input_mask'"):
        runner.run({"inputs": inputs["inputs"]})


def test_weights_alone(tmp_path: Path) -> None:
    model = OWN["gpt"].model()
    done = export(model, tmp_path / "model.safetensors")
    model.load_state_dict(load_file(done.path))  # strict: tied names too
    assert done.distance is None and done.form == "safetensors"


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_format, "_LARGE", 100)
    done = exported(tmp_path / "model.onnx", held_out=held_out())
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert sizes.keys() == {"model.onnx", "model.onnx.data"} and done.bytes == sum(sizes.values())
    inputs = numbers(5, 8)
    found = runtime.InferenceSession(str(done.path)).run(None, {"inputs": inputs.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), OWN["mlp"].model()(inputs))


@pytest.mark.parametrize("missing", ["onnxscript", "onnx_ir"])
def test_without_the_extra_the_remedy_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "modelwright.export.onnx", raising=False)
    with pytest.raises(MissingExtra, match="the export format 'onnx' needs") as caught:
        FORMATS.resolve("onnx")
    assert caught.value.remedy == "pip install 'modelwright[onnx]'"


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_without_the_runtime(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"onnxruntime": "onnx"}.get(name, name)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"modelwright.export.runtimes.{module}", raising=False)
    with pytest.raises(MissingExtra, match=rf"\[{extra}\]"):
        runtime_of(Path("model.onnx"), name)
    monkeypatch.undo()
    importlib.invalidate_caches()


def test_openvino_computes_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    done = exported(tmp_path / "model.onnx", held_out=held_out())
    found = held_out().score(FileModule(runtime_of(done.path, "openvino").open(done.path)))
    assert not differences(done.reported, found, 400)
