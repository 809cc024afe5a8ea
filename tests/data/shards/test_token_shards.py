"""Shards as data: the same windows as from one file, and damage named, or left out as holes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.shards.made import alter, build, write_texts

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data import SAMPLING
from modelwright.data.batches import read
from modelwright.data.loader import Loader
from modelwright.data.shards import token_shards
from modelwright.data.shards.manifest import NAME
from modelwright.data.shards.token_shards import TokenShards
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.windows import TokenWindows
from modelwright.data.tokenizers.bpe import Bpe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(write_texts(folder / "texts"), folder / "shards")
    return folder / "shards"


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _opened(data: TokenShards, cache: Path) -> Any:
    return data.open(data.prepare(cache))


def _reference(folder: Path, context: int, stride: int | None = None, **fields: Any) -> list[dict[str, torch.Tensor]]:
    """Every window of every shard, each shard read by itself."""
    split = "train" if stride is None else "held_out"
    rows = []
    for shard in json.loads((folder / NAME).read_text())["splits"][split]:
        windows = TokenWindows(Indexed(folder / shard["name"]), context, stride, **fields)
        batch = windows.__getitems__(np.arange(len(windows)))
        rows += [{name: tensor[row] for name, tensor in batch.items()} for row in range(len(windows))]
    return rows


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 200), st.sampled_from(["joined", "separate"]), st.data())
def test_windows_are_those_of_each_shard_in_turn(
    whole: Path, tmp_path: Path, context: int, documents: Any, data: st.DataObject
) -> None:
    train = _opened(TokenShards(path=str(whole), context=context, documents=documents), tmp_path).train
    expected = _reference(whole, context, documents=documents)
    assert len(train) == len(expected)
    positions = data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=0, max_size=30))
    batch = read(train, positions)
    assert {"inputs", "targets"} <= batch.keys()
    for row, position in enumerate(positions):
        assert all(torch.equal(batch[name][row], value) for name, value in expected[position].items())


def test_held_out_windows_score_each_shard_to_its_end(whole: Path, tmp_path: Path) -> None:
    splits = _opened(TokenShards(path=str(whole), context=16, held_out_stride=5), tmp_path)
    expected = _reference(whole, 16, 5, token_bytes=splits.tokenizer.token_bytes())
    batch = read(splits.held_out, np.arange(len(splits.held_out)))
    assert len(expected) == len(splits.held_out)
    assert all(torch.equal(batch["targets"][row], each["targets"]) for row, each in enumerate(expected))
    assert int(batch["bytes"].sum()) == sum(len(text) for _, text in splits.documents)


def test_the_tokenizer_comes_with_the_shards_and_stays_with_a_run(tmp_path: Path) -> None:
    build(write_texts(tmp_path / "texts"), tmp_path / "shards", technique=Bpe(vocabulary=300))
    technique = TokenShards(path=str(tmp_path / "shards"), context=16)
    tokenizer = _opened(technique, tmp_path / "cache").tokenizer
    assert tokenizer is not None
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    kept = technique.tokenizer.load(tmp_path / "kept")
    text = "deep sea, ein Wörtchen \N{SNOWMAN}".encode()
    learnt = Bpe(vocabulary=300).load(tmp_path / "shards")
    assert kept.encode(text).tolist() == tokenizer.encode(text).tolist() == learnt.encode(text).tolist()
    assert kept.decode(kept.encode(text)) == text and kept.end_of_text == learnt.end_of_text


def test_a_manifest_cannot_name_code_to_run(shards: Path, tmp_path: Path) -> None:
    told = json.loads((shards / NAME).read_text())
    told["tokenizer_settings"] = {"use": "tests.data.shards.made:build"}
    (shards / NAME).write_text(json.dumps(told))
    with pytest.raises(ModelwrightError, match="unknown tokenizer"):
        _opened(TokenShards(path=str(shards)), tmp_path)


# --- damage


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "the file is missing"),
    "cut short": (_cut, "and was written with"),
    "altered": (alter, "its hash is not"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_damage_stops_before_anything_is_read_and_names_the_path(
    shards: Path, tmp_path: Path, kind: str, ending: str
) -> None:
    damage, words = DAMAGES[kind]
    data = TokenShards(path=str(shards), context=16)
    data.prepare(tmp_path / "cache")  # the negative control: nothing is found in what is whole
    path = shards / f"train-00002{ending}"
    damage(path)
    with pytest.raises(ModelwrightError, match=words) as caught:
        data.prepare(tmp_path / "cache")
    assert caught.value.where == str(path) and "on_damage" in caught.value.remedy


def test_all_damage_is_named_at_once(shards: Path, tmp_path: Path) -> None:
    (shards / "train-00000.bin").unlink()
    alter(shards / "train-00003.bin")
    with pytest.raises(ModelwrightError) as caught:
        TokenShards(path=str(shards)).prepare(tmp_path)
    assert "train-00000.bin" in str(caught.value) and "train-00003.bin" in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_quarantine_leaves_holes_and_moves_nothing(shards: Path, tmp_path: Path, kind: str) -> None:
    data = TokenShards(path=str(shards), context=16, on_damage="quarantine")
    before = _opened(data, tmp_path / "cache").train
    path = shards / "train-00002.bin"
    lost = json.loads((shards / NAME).read_text())["splits"]["train"][2]["tokens"] - 1
    DAMAGES[kind][0](path)
    told: list[events.Event] = []
    with events.listening(told.append):
        after = _opened(data, tmp_path / "cache").train
    (event,) = [each for each in told if each.kind == "shard-quarantined"]
    assert event.details["path"] == str(path) and event.details["shard"] == "train-00002"
    assert event.details["samples"] == lost // 16 and event.level == "warning"
    assert len(after) == len(before)
    present = after.present(np.arange(len(after)))
    assert (~present).sum() == lost // 16
    there = np.flatnonzero(present)
    assert torch.equal(read(after, there)["inputs"], read(before, there)["inputs"])
    batch = read(after, np.arange(len(after)))  # whoever asks all the same learns nothing from it
    assert torch.equal(batch["inputs"][there], read(before, there)["inputs"])
    assert (batch["targets"][~present] == -100).all() and (batch["inputs"][~present] == 0).all()


def test_steps_lose_the_samples_of_a_quarantined_shard_and_no_others(shards: Path, tmp_path: Path) -> None:
    data = TokenShards(path=str(shards), context=16, on_damage="quarantine")
    before = _opened(data, tmp_path / "cache").train
    alter(shards / "train-00001.bin")
    after = _opened(data, tmp_path / "cache").train
    seen = []
    for dataset in (before, after):
        steps: dict[int, list[int]] = {}
        order = SAMPLING.resolve("global")().order(dataset, batch=8, seed=3)
        loader = Loader(
            dataset,
            order,
            batch=8,
            micro_batch=8,
            steps=20,
            note=partial(_note, steps),
        )
        sizes = [sum(len(batch["inputs"]) for batch in step) for step in loader]
        assert sizes == [len(steps[number]) for number in range(20)]
        seen.append(steps)
    for number in range(20):
        assert seen[1][number] == [index for index in seen[0][number] if after.present([index])[0]]
    assert seen[0] != seen[1]


def _note(steps: dict[int, list[int]], step: int, indices: np.ndarray) -> None:
    steps[step] = indices.tolist()


def test_held_out_shards_can_be_left_out_too(shards: Path, tmp_path: Path) -> None:
    data = TokenShards(path=str(shards), context=16, on_damage="quarantine")
    whole = _opened(data, tmp_path)
    names = [path.stem for path in sorted(shards.glob("held_out-*.bin"))]
    alter(shards / f"{names[0]}.bin")
    left = _opened(data, tmp_path)
    if len(names) == 1:
        assert left.held_out is None and left.documents is None
    else:
        assert len(left.held_out) < len(whole.held_out) and len(left.documents) < len(whole.documents)
    batch = read(left.held_out, np.arange(len(left.held_out)))
    assert int(batch["bytes"].sum()) == sum(len(text) for _, text in left.documents)


def test_the_tokenizer_cannot_be_left_out(tmp_path: Path) -> None:
    build(write_texts(tmp_path / "texts"), tmp_path / "shards", technique=Bpe(vocabulary=300))
    alter(tmp_path / "shards" / "tokenizer.json")
    with pytest.raises(ModelwrightError, match="tokenizer of the shards is damaged"):
        TokenShards(path=str(tmp_path / "shards"), on_damage="quarantine").prepare(tmp_path / "cache")


def test_what_is_left_out_is_a_note_that_every_rank_reads(shards: Path, tmp_path: Path) -> None:
    """A run that goes on keeps the holes it began with, and damage since then is named."""
    data = TokenShards(path=str(shards), context=16, on_damage="quarantine")
    whole = (shards / "train-00001.bin").read_bytes()
    alter(shards / "train-00001.bin")
    folder = data.prepare(tmp_path)
    assert data.prepare(tmp_path) == folder
    (shards / "train-00001.bin").write_bytes(whole)
    assert not data.open(folder).train.present(np.arange(len(data.open(folder).train))).all()
    assert data.prepare(tmp_path) != folder, "a new run has the restored shard back"
    (shards / "train-00002.bin").unlink()
    with pytest.raises(ModelwrightError, match="train-00002"):
        data.open(folder)


def test_hashes_of_a_large_folder_are_not_compared_and_that_is_told(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_shards, "HASHED_BYTES", 10)
    alter(shards / "train-00001.bin")
    told: list[events.Event] = []
    with events.listening(told.append):
        TokenShards(path=str(shards)).prepare(tmp_path)
    assert [event.kind for event in told] == ["hashes-not-checked"]
    assert "modelwright data check" in told[0].message
    left_out = _opened(TokenShards(path=str(shards), context=16, on_damage="quarantine"), tmp_path).train
    assert not left_out.present(np.arange(len(left_out))).all(), "quarantine compares however large it is"


def test_hashes_are_compared_once_for_each_state_of_the_files(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = token_shards.wrong_hashes
    monkeypatch.setattr(token_shards, "wrong_hashes", lambda *given: calls.append(1) or real(*given))
    data = TokenShards(path=str(shards))
    for _ in range(3):
        data.prepare(tmp_path)
    assert len(calls) == 1
    (shards / "train-00001.bin").touch()
    data.prepare(tmp_path)
    assert len(calls) == 2


# --- order


def test_a_folder_is_shuffled_as_a_whole_unless_groups_are_asked_for(shards: Path, tmp_path: Path) -> None:
    assert not hasattr(_opened(TokenShards(path=str(shards)), tmp_path).train, "order")
    grouped = _opened(TokenShards(path=str(shards), context=16, shuffle_shards=2), tmp_path).train
    order = SAMPLING.resolve("global")().order(grouped, batch=4, seed=5)
    indices = order(np.arange(len(grouped)))
    assert np.array_equal(np.sort(indices), np.arange(len(grouped)))
    counts = [len(part) for part in _parts(shards, 16)]
    first = np.searchsorted(np.cumsum(counts), indices[:20], side="right")
    assert len(np.unique(first)) <= 2


def _parts(folder: Path, context: int) -> list[TokenWindows]:
    entries = json.loads((folder / NAME).read_text())["splits"]["train"]
    return [TokenWindows(Indexed(folder / entry["name"]), context) for entry in entries]


# --- mistakes


def test_values_that_make_no_sense_are_refused(whole: Path) -> None:
    data = TokenShards(path=str(whole))
    wrong: list[dict[str, Any]] = [
        {"path": ""},
        {"context": 0},
        {"held_out_stride": 300},
        {"on_damage": "ignore"},
        {"documents": "apart"},
        {"shuffle_shards": 0},
    ]
    for fields in wrong:
        with pytest.raises(ModelwrightError) as caught:
            replace(data, **fields)
        assert caught.value.where == next(iter(fields))


def test_folders_without_shards_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelwrightError, match="missing") as caught:
            TokenShards(path=str(path)).prepare(tmp_path / "cache")
        assert str(path) in caught.value.where


def test_nothing_is_left_where_every_shard_is_damaged(shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.bin"):
        path.unlink()
    with pytest.raises(ModelwrightError, match="every shard that holds a window of the context is damaged") as caught:
        _opened(TokenShards(path=str(shards), context=16, on_damage="quarantine"), tmp_path)
    assert caught.value.where == "data.path"


def test_a_context_longer_than_every_shard_is_an_error(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="no shard holds a single window"):
        _opened(TokenShards(path=str(whole), context=10**6), tmp_path)
