from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.batches import read
from modelwright.data.sequences.pairs import SequencePairs
from modelwright.data.sequences.python_names import PythonNames
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte


def _pairs(folder: Path, text: str, **fields: Any) -> SequencePairs:
    (folder / "pairs.tsv").write_text(text, encoding="utf-8")
    settings: dict[str, Any] = {"tokenizer": Byte(), "held_out": 0.0, "source_length": 4, "target_length": 5} | fields
    return SequencePairs(files=(str(folder / "pairs.tsv"),), source="en", target="de", **settings)


def _batch(folder: Path, text: str, **fields: Any) -> dict[str, torch.Tensor]:
    data = _pairs(folder, text, **fields)
    splits = data.open(data.prepare(folder / "cache"))
    return read(splits.train, np.arange(len(splits.train)))


def test_pairs_by_hand(tmp_path: Path) -> None:
    told: list[Event] = []
    with listening(told.append):
        batch = _batch(tmp_path, "en\tde\nab\txyz\nabcdef\tuvwxyz\nc\t\n\tx\n")
    end, no = 256, -100
    a, x, u = ord("a"), ord("x"), ord("u")
    assert batch["inputs"].tolist() == [[a, a + 1, end, end], [a, a + 1, a + 2, a + 3], [a + 2, end, end, end]]
    assert batch["input_mask"].tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert batch["decoder_inputs"].tolist() == [
        [end, x, x + 1, x + 2, end],
        [end, u, u + 1, u + 2, u + 3],
        [end, end, end, end, end],
    ]
    assert batch["targets"].tolist() == [
        [x, x + 1, x + 2, end, no],
        [u, u + 1, u + 2, u + 3, u + 4],  # cut: its end is not learnt, it has not ended
        [end, no, no, no, no],
    ]
    assert [(event.kind, event.details.get("rows")) for event in told[1:]] == [("rows-cut", 1), ("rows-empty", 1)]


def test_a_target_that_just_fits_is_not_cut(tmp_path: Path) -> None:
    told: list[Event] = []
    with listening(told.append):
        batch = _batch(tmp_path, "en\tde\nabcd\twxyz\n")
    assert batch["targets"][0, -1] == 256 and [event.kind for event in told] == ["data-prepared"]


def test_one_vocabulary_serves_both_sides(tmp_path: Path) -> None:
    data = _pairs(tmp_path, "en\tde\n" + "aa aa\tzz zz\n" * 4 + "b\tc\n", tokenizer=Bpe(vocabulary=300))
    splits = data.open(data.prepare(tmp_path / "cache"))
    assert splits.tokenizer is not None and splits.facts == {"vocabulary": splits.tokenizer.vocabulary}
    assert len(splits.tokenizer.encode(b"aa")) == len(splits.tokenizer.encode(b"zz")) == 1


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"source_length": 0}, "source_length"), ({"target_length": 0}, "target_length"), ({"held_out": -1}, "held_out")],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _pairs(tmp_path, "", **fields)
    assert caught.value.where == where
    with pytest.raises(ModelwrightError, match="one column"):
        SequencePairs(files=("a",), source="x", target="x")


def test_names_are_their_words(tmp_path: Path) -> None:
    data = PythonNames(tokenizer=Byte())
    splits = data.open(data.prepare(tmp_path))
    assert splits.tokenizer is not None and splits.held_out is not None
    assert len(splits.train) > 5000 < 20 * len(splits.held_out)
    batch = read(splits.train, np.arange(500))
    for source, target in zip(batch["inputs"], batch["targets"], strict=True):
        words = splits.tokenizer.decode(target[target >= 0].tolist())
        assert words.replace(b" ", b"") == splits.tokenizer.decode(source.tolist()) and b" " in words
