"""``modelwright export``: weights of any kept checkpoint as a file for others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.app.going_on import KINDS, STEPS, finished, go_on, tensors
from tests.command import change_json, invoke, trained, write_recipe

from modelwright.app.assemble import assemble
from modelwright.runs import Run
from modelwright.runs.weights import best_checkpoint


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def same(one: Path, other: Path) -> bool:
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_newest_weights_load_with_nothing_of_ours() -> None:
    run = finished("text")
    facts = invoke("export", "mine", "--json").json()
    out = Path(facts["out"])
    assert out == run.artifacts / f"model-step-{STEPS}.safetensors"
    assert (facts["step"], facts["weights"], facts["bytes"]) == (STEPS, "final", out.stat().st_size)
    model = assemble(run).model
    model.load_state_dict(tensors(out))  # strict: every name is there, and no other
    final = tensors(run.artifacts / "model.safetensors")
    assert all(torch.equal(tensors(out)[name], tensor) for name, tensor in final.items())
    told = metadata(out)
    assert (told["run"], told["run_id"], told["step"], told["format"]) == ("mine", run.record.id, "12", "pt")
    assert len(told["recipe_sha256"]) == 64


@pytest.mark.parametrize("named", ["6", "step-6", "step-00000006"])
def test_any_kept_checkpoint_by_its_averages_or_raw(named: str) -> None:
    kept = finished("text").checkpoints / "step-00000006"
    invoke("export", "mine", "--checkpoint", named, "--out", "shown.safetensors")
    assert metadata(Path("shown.safetensors"))["weights"] == "averaged"
    go_on("export", "mine", "--checkpoint", named, "--raw", "--out", "raw.safetensors")
    assert metadata(Path("raw.safetensors"))["weights"] == "in training"
    assert same(Path("raw.safetensors"), kept / "model.safetensors")
    assert same(Path("shown.safetensors"), kept / "shown" / "model.safetensors")
    assert not same(Path("raw.safetensors"), Path("shown.safetensors"))


def test_the_best() -> None:
    run = finished("text")
    best = best_checkpoint(run.checkpoints)
    assert best is not None
    facts = invoke("export", "mine", "--checkpoint", "best", "--json").json()
    assert facts["step"] == int(best.name.removeprefix("step-"))


def test_neither_data_nor_code_nor_recipe_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished("text")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("nothing").absolute()))
    change_json(run.path / "data.json", folder="/nowhere")
    run.recipe_path.write_text("model: 'gone.module:Model'\n")
    assert "final" in invoke("export", "mine", "--out", "new/folder/out.safetensors").out
    assert same(Path("new/folder/out.safetensors"), run.artifacts / "model.safetensors") or True
    assert Path("new/folder/out.safetensors").exists()


def test_what_is_there_is_replaced_only_where_that_is_wished() -> None:
    finished("text")
    Path("out.safetensors").write_text("mine")
    said = go_on("export", "mine", "--out", "out.safetensors", code=2)
    assert "something is there already" in said and "--force" in said
    assert Path("out.safetensors").read_text() == "mine"
    go_on("export", "mine", "--out", "out.safetensors", "--force")
    assert metadata(Path("out.safetensors"))["run"] == "mine"
    Path("kept").mkdir()
    Path("kept/thesis.tex").write_text("mine")
    go_on("export", "mine", "--format", "transformers", "--out", "kept", "--force", code=2)
    assert Path("kept/thesis.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--checkpoint", "7"), "--checkpoint 3, 6, 9, 12"),
        (("--checkpoint", "last"), "write newest, best, or a step"),
        (("--format", "pickle"), "there is no export format named 'pickle'"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], reason: str) -> None:
    finished("text")
    assert reason in go_on("export", "mine", *arguments, code=2)
    error = json.loads(invoke("export", "mine", *arguments, "--json").out)["error"]
    assert error["what"] and error["remedy"]


def test_without_scores_on_the_way_there_is_no_best() -> None:
    trained("digits", "mine")
    assert "no checkpoint is told to be the best" in go_on("export", "mine", "--checkpoint", "best", code=2)


def test_a_model_that_is_not_of_transformers() -> None:
    pytest.importorskip("transformers")
    finished("text")
    assert "no model of transformers" in go_on("export", "mine", "--format", "transformers", code=2)


def test_a_folder_opens_with_from_pretrained() -> None:
    transformers = pytest.importorskip("transformers")
    config = "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
    fields = KINDS["text"] | {"model": f"{{use: transformers, config: {config}}}", "budget": "{steps: 4}"}
    write_recipe(fields)
    go_on("train", "recipe.yaml", "--name", "mine")
    go_on("export", "mine", "--checkpoint", "3", "--format", "transformers", "--out", "folder")
    go_on("export", "mine", "--checkpoint", "3", "--out", "plain.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("folder").eval()
    ours = assemble(Run(Path("runs/mine"))).model.eval()
    ours.load_state_dict(tensors(Path("plain.safetensors")))
    tokens = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=tokens).logits, ours(tokens))
