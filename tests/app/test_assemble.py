from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.command import TEXT, invoke, write_recipe

from modelwright.app.assemble import assemble, prepare, tokenizer_of
from modelwright.app.places import data_cache
from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.texts.indexed import Indexed
from modelwright.recipe import load_recipe
from modelwright.runs import Run

BPE = TEXT | {
    "data": "{use: text-files, files: ['*.txt'], context: 16, held_out: 0.3, tokenizer: {use: bpe, vocabulary: 300}}"
}


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own: these tests damage it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "own-cache"))
    return data_cache()


def _prepared(fields: dict[str, str] = BPE) -> Run:
    recipe = write_recipe(fields)
    run = Run.create(Path("runs"), "one", "train")
    run.write_recipe(recipe.read_text())
    prepare(load_recipe(recipe), run)
    return run


def _folder(run: Run) -> Path:
    return Path(json.loads((run.path / "data.json").read_text())["folder"])


def _change_the_text() -> None:
    for path in Path().glob("*.txt"):
        path.write_text("other words altogether, which give other tokens. " * 9)
        path.write_text(f"{path} {path.read_text()}")


def test_a_run_keeps_its_tokenizer_and_the_key_of_its_data() -> None:
    run = _prepared()
    noted = json.loads((run.path / "data.json").read_text())
    assert noted["name"] == _folder(run).name
    shutil.rmtree(_folder(run))
    tokenizer = tokenizer_of(run)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("grün".encode())) == "grün".encode()


def test_the_same_text_is_prepared_anew_in_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _prepared()
    before = read(assemble(run).data.train, [0])
    shutil.rmtree(_folder(run))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("elsewhere").absolute()))
    after = read(assemble(run).data.train, [0])
    assert torch.equal(before["inputs"], after["inputs"])
    assert _folder(run).parent == Path("elsewhere/modelwright").absolute()


def test_a_copied_run_works_with_the_same_cache() -> None:
    run = _prepared()
    shutil.copytree(run.path, "copied")
    _change_the_text()
    copied, original = assemble(Run(Path("copied"))), assemble(run)
    assert torch.equal(read(copied.data.train, [0])["inputs"], read(original.data.train, [0])["inputs"])


def test_a_folder_of_prepared_data_may_be_copied_along(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _prepared()
    before = read(assemble(run).data.train, [0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("elsewhere").absolute()))
    shutil.move(_folder(run), data_cache() / _folder(run).name)
    _change_the_text()
    assert torch.equal(read(assemble(run).data.train, [0])["inputs"], before["inputs"])


@pytest.mark.parametrize("fields", [BPE, TEXT])
def test_another_text_is_refused_instead_of_learning_another_tokenizer(fields: dict[str, str]) -> None:
    run = _prepared(fields)
    noted = (run.path / "data.json").read_text()
    shutil.rmtree(_folder(run))
    _change_the_text()
    with pytest.raises(ModelwrightError, match="not what the run 'one' was trained on") as caught:
        assemble(run)
    assert caught.value.where.endswith("data.json")
    assert "restore the text" in caught.value.remedy
    assert (run.path / "data.json").read_text() == noted


def test_text_that_is_gone_is_told() -> None:
    run = _prepared()
    shutil.rmtree(_folder(run))
    for path in Path().glob("*.txt"):
        path.unlink()
    with pytest.raises(ModelwrightError, match=r"trained on is no longer in .* made again: no file matches"):
        assemble(run)


def _nothing() -> None: ...


@pytest.mark.parametrize("change", [_nothing, _change_the_text])
def test_a_model_of_text_is_assembled_without_its_data(change: Callable[[], None]) -> None:
    run = _prepared()
    expected = assemble(run).data.tokenizer
    shutil.rmtree(data_cache())
    change()
    training = assemble(run, with_data=False)
    assert expected is not None and training.data.tokenizer is not None
    assert training.data.tokenizer.encode(b"a few words").tolist() == expected.encode(b"a few words").tolist()
    assert read(training.data.train, [0])["inputs"].shape == (1, 16)
    assert not data_cache().exists()


def test_other_data_that_changed_is_told() -> None:
    """Names of folders of the user's own, and of arrays, need not be keys of their content."""
    run = _prepared(TEXT | {"model": "mlp", "objective": "classification", "data": "sklearn"})
    (run.path / "data.json").write_text(json.dumps({"format": 1, "folder": str(data_cache() / "gone")}))
    told: list[events.Event] = []
    with events.listening(told.append):
        assemble(run)
    assert [event.kind for event in told if event.level == "warning"] == ["data-changed"]


def test_tokens_altered_on_disk_are_named_before_they_are_trained_on() -> None:
    write_recipe(TEXT)
    folder = _folder(_prepared(TEXT))
    tokens = Indexed(folder / "train").tokens.copy()
    tokens[7] += 1
    (folder / "train.bin").write_bytes(tokens.tobytes())
    outcome = invoke("train", "recipe.yaml", "--name", "two")
    assert outcome.code == 2
    assert "was altered" in outcome.err
    complaint = outcome.err.replace("\n", "").replace(" ", "")
    assert f"{folder}/train.bin" in complaint
    assert f"removethefolder{folder}" in complaint
    assert not Path("runs/two").exists()


def test_text_is_generated_when_the_data_is_gone() -> None:
    recipe = write_recipe(BPE)
    assert invoke("train", str(recipe), "--name", "told").code == 0
    asked = ("generate", "told", "--prompt", "so", "--length", "8", "--json")
    before = invoke(*asked)
    assert before.code == 0
    shutil.rmtree(data_cache())
    for path in Path().glob("*.txt"):
        path.unlink()
    after = invoke(*asked)
    assert after.code == 0, after.err
    assert json.loads(after.out) == json.loads(before.out)
    assert invoke("evaluate", "told").code == 2
