from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.labelled import write_records

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.batches import read
from modelwright.data.sequences.preferences import Preferences
from modelwright.data.tokenizers.byte import Byte

ASKED = {"role": "user", "content": "a"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
FOLLOWED = [ASKED, GOOD, {"role": "user", "content": "more"}]


def _data(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> Preferences:
    path = write_records(folder / "pairs.jsonl", rows)
    settings: dict[str, Any] = {"tokenizer": Byte(), "held_out": 0.0, "context": 64} | fields
    return Preferences(files=(str(path),), **settings)


def _batch(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> dict[str, torch.Tensor]:
    data = _data(folder, rows, **fields)
    splits = data.open(data.prepare(folder / "cache"))
    return read(splits.train, np.arange(len(splits.train)))


def _learnt(targets: torch.Tensor) -> bytes:
    return bytes(token for token in targets.tolist() if 0 <= token < 256)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "good", "rejected": "bad"},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"prompt": "a", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},  # as UltraFeedback has it
    ],
)
def test_a_pair_by_hand(row: dict[str, Any], tmp_path: Path) -> None:
    batch = _batch(tmp_path, [row], context=40)
    asked = [256, *b"user:\na\nassistant:\n"]
    for name, answer in (("chosen", b"good"), ("rejected", b"bad")):
        text = [*asked, *answer, 256, *b"\n"]
        assert batch[name].tolist() == [(text[:-1] + [256] * 40)[:40]]
        expected = np.full(40, -100)
        expected[len(asked) - 1 : len(asked) + len(answer)] = [*answer, 256]
        assert batch[f"{name}_targets"].tolist() == [expected.tolist()]
        assert batch[f"{name}_targets"].roll(-1).tolist() != [expected.tolist()]


def test_a_chat_that_asks_something_else_than_its_prompt_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "a ", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
    with pytest.raises(ModelwrightError, match="'chosen' begins with a question of its own") as caught:
        _batch(tmp_path, [row])
    assert caught.value.where.endswith("pairs.jsonl:1") and "word for word" in caught.value.remedy


def test_answers_that_both_chats_share_are_not_learnt(tmp_path: Path) -> None:
    batch = _batch(tmp_path, [{"chosen": [*FOLLOWED, GOOD], "rejected": [*FOLLOWED, BAD]}], context=128)
    assert _learnt(batch["chosen_targets"][0]) == b"good"
    assert _learnt(batch["rejected_targets"][0]) == b"bad"


def test_cut_and_equal_pairs_are_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "good", "rejected": "bad"},
        {"prompt": "a", "chosen": "same", "rejected": "same"},
        {"prompt": "a", "chosen": "b" * 90, "rejected": "c"},
        {"prompt": "a" * 90, "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b" * 90 + "c", "rejected": "b" * 90 + "d"},
    ]
    told: list[Event] = []
    with listening(told.append):
        batch = _batch(tmp_path, rows)
    assert len(batch["chosen"]) == 2
    found = {event.kind: [place[-2:] for place in event.details.get("places", [])] for event in told}  # type: ignore[attr-defined]
    assert found == {"data-prepared": [], "rows-cut": [":3"], "rows-empty": [":2"], "rows-dropped": [":4"]} | {
        "rows-alike": [":5"]
    }


def test_pairs_of_one_question_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number % 9}", "chosen": f"y{number}", "rejected": f"n{number}"} for number in range(60)]
    data = _data(tmp_path, rows, held_out=0.4)
    splits = data.open(data.prepare(tmp_path / "cache"))
    assert splits.held_out is not None
    asked = [
        {row[7] for row in read(part, np.arange(len(part)))["chosen"].tolist()}
        for part in (splits.train, splits.held_out)
    ]
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 9


@pytest.mark.parametrize("row", [{"prompt": "a", "chosen": "b"}, {"prompt": "a", "chosen": 3, "rejected": "c"}])
def test_bad_records_are_named(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _data(tmp_path, [row]).prepare(tmp_path / "cache")
    assert "pairs.jsonl:1" in caught.value.where
