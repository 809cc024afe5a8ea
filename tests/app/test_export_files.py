"""``modelwright export`` of files that compute, and ``modelwright evaluate FILE``, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.command import DIGITS, Outcome, invoke, trained, write_recipe

from modelwright.app.assemble import assemble
from modelwright.models.source import load_weights
from modelwright.runs import Run, read_events

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported with


def done(*arguments: str) -> Outcome:
    outcome = invoke(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*arguments: str) -> str:
    outcome = invoke(*arguments)
    assert outcome.code == 2, outcome.out
    return " ".join(outcome.complaint)


def exported(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = done("export", "mine", *arguments, "--json").json()
    return told


def test_a_program_scores_what_the_run_scored() -> None:
    run = trained("digits", "mine")
    told = exported("--format", "torch-export")
    file = Path(told["out"])
    assert file == Path("runs/mine/artifacts/model-step-12.pt2") and told["bytes"] == file.stat().st_size
    recorded = Run(run).record.summary["held_out"]
    assert told["reported"] == told["found"] == pytest.approx(recorded, rel=1e-6) and told["distance"] < 1e-6
    receipt = json.loads((run / "artifacts/model-step-12.pt2.json").read_text())
    assert receipt.items() >= told.items() and receipt["versions"]["torch"]
    found = done("evaluate", str(file), "--json").json()
    assert found["file"] == {"path": str(file), "sha256": told["sha256"], "reported": told["reported"], "same": True}
    assert {name: found[name] for name in told["reported"]} == told["reported"]
    assert (Run(Path(found["run"])).record.verb, Run(Path(found["run"])).parent().path.name) == ("evaluate", "mine")  # type: ignore[union-attr]
    shown = done("evaluate", str(file)).out
    assert "accuracy" in shown and "accuracy reported at export" in shown


def test_onnx_on_a_target_and_elsewhere() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    trained("digits", "mine")
    Path("elsewhere").mkdir()
    told = exported("--target", "onnx:cpu", "--out", "elsewhere/digits.onnx")
    choice = told["choice"]
    assert told["format"] == "onnx" and choice["baseline"]["runtime"] == "onnxruntime"
    assert all(speed >= 0.98 for speed in choice["times_as_fast"].values())
    name = "digits.onnx in onnxruntime, fp32, threads 1"
    assert choice["milliseconds"].keys() == {"1", "32"} and choice["milliseconds"]["1"][name] > 0
    assert json.loads(Path(told["receipt"]).read_text())["choice"] == choice
    assert Path(told["receipt"]).parent == Path("runs/mine/artifacts")
    assert done("evaluate", "elsewhere/digits.onnx", "--json").json()["file"]["same"]  # found by the run's id

    trained("digits", "other", id="another")
    said = refused("evaluate", "elsewhere/digits.onnx", "--run", "other")
    assert "was exported from the run 'mine'" in said and "not from 'other'" in said
    assert done("evaluate", "elsewhere/digits.onnx", "--run", "mine", "--json").json()["file"]["same"]
    said = refused("evaluate", "elsewhere/digits.onnx", "--folder", "elsewhere")
    assert "is not in elsewhere" in said and "--run PATH" in said

    recipe = write_recipe(DIGITS | {"data": "{use: sklearn, held_out: 0.5}"}, "half.yaml")
    other = done("evaluate", "elsewhere/digits.onnx", "--data", str(recipe), "--json").json()
    assert "same" not in other["file"] and other["loss"] != told["found"]["loss"]

    model = onnx.load("elsewhere/digits.onnx")
    for held in model.graph.initializer:
        held.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held) * 1.05, held.name))
    onnx.save(model, "elsewhere/digits.onnx")
    outcome = done("evaluate", "elsewhere/digits.onnx", "--json")
    assert not outcome.json()["file"]["same"] and "does not score here what was reported" in outcome.err
    events = [event.kind for event in read_events(Path(outcome.json()["run"]) / "events.jsonl")]
    assert "file-differs" in events


def test_the_lines_of_the_documentation_run_the_file() -> None:
    pytest.importorskip("onnxruntime")
    run = trained("digits", "mine")
    exported("--out", "digits.onnx")
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    (lines,) = re.findall(r"```python\n(import numpy.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines, names)
    model = assemble(Run(run)).model.eval()
    load_weights(model, run / "artifacts/model.safetensors")
    with torch.no_grad():
        wanted = model(torch.zeros(5, 64))
    torch.testing.assert_close(torch.from_numpy(names["logits"]), wanted)


def test_what_is_shown_of_a_choice() -> None:
    trained("digits", "mine")
    shown = done("export", "mine", "--target", "torch-export:cpu").out
    assert "fastest for torch-export:cpu" in shown and "times as fast as torch, fp32, threads 1" in shown
    assert "of the model" in shown and "held-out samples" in shown


def test_executorch() -> None:
    pytest.importorskip("executorch.runtime")
    trained("digits", "mine")
    assert exported("--out", "digits.pte")["found"] == pytest.approx(exported("--out", "digits.pt2")["found"])
    assert done("evaluate", "digits.pte", "--json").json()["file"]["same"]


def test_weights_alone_score_as_the_run() -> None:
    trained("digits", "mine")
    told = exported("--out", "digits.safetensors")
    assert told["format"] == "safetensors" and "receipt" not in told
    of_file, of_run = (done("evaluate", name, "--json").json() for name in ("digits.safetensors", "mine"))
    assert of_file["loss"] == of_run["loss"] and of_file["accuracy"] == of_run["accuracy"]


def test_where_nothing_is_held_out_the_outputs_are_compared_and_that_is_said() -> None:
    np.save("inputs.npy", np.random.default_rng(0).normal(size=(40, 4)).astype("float32"))
    np.save("targets.npy", np.arange(40) % 3)
    data = "{use: npy, inputs: inputs.npy, targets: targets.npy, held_out: 0.0}"
    write_recipe(DIGITS | {"data": data, "budget": "{steps: 2}"})
    done("train", "recipe.yaml", "--name", "mine")
    outcome = done("export", "mine", "--out", "digits.pt2", "--json")
    assert "its metrics are not" in outcome.err
    assert "found" not in outcome.json() and outcome.json()["distance"] < 1e-6
    assert "nothing is held out" in refused("evaluate", "digits.pt2")


def test_one_from_elsewhere_is_not_read_without_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("digits", "mine")
    exported("--out", "digits.pt2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path("another").absolute()))
    assert "came from elsewhere" in refused("evaluate", "digits.pt2")
    assert done("evaluate", "digits.pt2", "--trust", "--json").json()["file"]["same"]


def test_mistakes() -> None:
    trained("digits", "mine")
    Path("taken.pt2").write_text("mine")
    Path("foreign.safetensors").write_bytes(b"none")
    Path("foreign.pt2").write_bytes(b"none")
    for arguments, reason in (
        (("evaluate", "gone.onnx"), "there is no such file"),
        (("evaluate", "foreign.safetensors"), "the file is not safetensors"),
        (("evaluate", "foreign.pt2"), "no program that modelwright exported"),
        (("evaluate", "mine", "--run", "mine"), "--run is for files"),
        (("evaluate", "mine", "--data", "recipe.yaml"), "--data is for files"),
        (("export", "mine", "--out", "taken.pt2"), "something is there already"),
        (("export", "mine", "--target", "onnx:gpu"), "no target 'onnx:gpu'"),
        (("export", "mine", "--target", "onnx:cpu", "--format", "safetensors"), "computes onnx, not safetensors"),
        (("export", "mine", "--target", "onnx:cpu", "--out", "model.pt2"), "computes onnx, not torch-export"),
        (("export", "mine", "--target", "onnx:cpu", "--out", "model.bin"), "files that end in .onnx"),
        (("export", "mine", "--format", "onnx", "--out", "model.bin"), "no runtime is known"),
    ):
        assert reason in refused(*arguments), arguments
    assert Path("taken.pt2").read_text() == "mine"


def test_a_run_whose_record_differs_is_told() -> None:
    summary = json.loads((trained("digits", "mine") / "run.json").read_text())["summary"]
    run = trained("digits", "changed", summary=summary | {"held_out": {"accuracy": 0.123, "loss": 9.0}})
    outcome = done("export", str(run), "--out", "digits.pt2", "--json")
    assert "in float32 here the model scores" in outcome.err and "(not 0.123)" in outcome.err
