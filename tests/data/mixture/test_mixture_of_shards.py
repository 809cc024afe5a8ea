from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.mixture.examples import texts, written
from tests.data.shards.made import alter, build

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import listening
from modelwright.data.batches import read, there
from modelwright.data.mixture.mixture import Mixture, Source
from modelwright.data.shards.token_shards import TokenShards
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte


def shards(folder: Path, technique: Any, **fields: Any) -> TokenShards:
    build(written(folder, "sea"), folder / "shards", technique=technique)
    return TokenShards(path=str(folder / "shards"), context=16, **fields)


def mixed(one: Any, other: Any, **fields: Any) -> Mixture:
    return Mixture(sources={"shards": Source(data=one), "texts": Source(data=other)}, **fields)


@pytest.mark.parametrize("technique", [Byte(), Bpe(vocabulary=300)])
def test_texts_take_the_tokenizer_of_shards(tmp_path: Path, technique: Any) -> None:
    one, other = shards(tmp_path, technique), texts(tmp_path, "city", tokenizer=Bpe())
    mixture = mixed(one, other, tokenizer_from="shards")
    folder = mixture.prepare(tmp_path / "cache")
    splits = mixture.open(folder)
    begin = splits.train.begins["texts"]
    rows = read(splits.train, range(begin, len(splits.train)))["inputs"]
    assert splits.tokenizer is not None
    assert b"market" in splits.tokenizer.decode(rows.ravel().tolist())
    splits.tokenizer.save(tmp_path / "cache")
    assert mixture.tokenizer.load(tmp_path / "cache").vocabulary == splits.facts["vocabulary"]


def test_tokenizers_that_are_the_same_need_no_sharing(tmp_path: Path) -> None:
    mixture = mixed(shards(tmp_path, Byte()), texts(tmp_path, "city", tokenizer=Byte()))
    assert mixture.open(mixture.prepare(tmp_path / "cache")).facts == {"vocabulary": 257}


def test_shards_cannot_take_a_tokenizer(tmp_path: Path) -> None:
    one, other = shards(tmp_path, Byte()), texts(tmp_path, "city")
    with pytest.raises(ModelwrightError, match="'shards' brings a tokenizer of its own"):
        mixed(one, other, tokenizer_from="texts")
    with pytest.raises(ModelwrightError, match="'texts' would learn") as caught:
        mixed(one, other)
    assert "tokenizer_from: shards" in caught.value.remedy


def test_a_quarantined_shard_leaves_holes_and_moves_nothing(tmp_path: Path) -> None:
    one, other = shards(tmp_path, Byte(), on_damage="quarantine"), texts(tmp_path, "city", tokenizer=Byte())
    mixture = mixed(one, other)
    whole = mixture.open(mixture.prepare(tmp_path / "before"))
    alter(sorted((tmp_path / "shards").glob("train-*.bin"))[1])
    with listening(lambda event: None):
        damaged = mixture.open(mixture.prepare(tmp_path / "after"))
    positions = np.arange(400)
    indices = whole.train.order(3)(positions)
    assert damaged.train.order(3)(positions).tolist() == indices.tolist()
    found = there(damaged.train, indices)
    assert 0 < (~found).sum() < 200
    assert found[indices >= damaged.train.begins["texts"]].all()
    before, after = (read(splits.train, indices[found])["inputs"] for splits in (whole, damaged))
    assert before.tolist() == after.tolist()
