from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.labelled import CHATS, local_tokenizer, write_records

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data import Splits
from modelwright.data.batches import read
from modelwright.data.manifest import verify
from modelwright.data.sequences.answers import prompt_tokens
from modelwright.data.sequences.instructions import Instructions
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte

END = 256


def _data(folder: Path, rows: list[dict[str, Any]] | None = None, **fields: Any) -> Instructions:
    rows = [{"messages": chat} for chat in CHATS] if rows is None else rows
    path = write_records(folder / "chats.jsonl", rows)
    settings: dict[str, Any] = {"tokenizer": Byte(), "held_out": 0.0, "context": 64} | fields
    return Instructions(files=(str(path),), **settings)


def _opened(folder: Path, *args: Any, **fields: Any) -> Splits:
    data = _data(folder, *args, **fields)
    return data.open(data.prepare(folder / "cache"))


def _all(splits: Splits) -> dict[str, torch.Tensor]:
    return read(splits.train, np.arange(len(splits.train)))


def test_a_sample_by_hand(tmp_path: Path) -> None:
    batch = _all(_opened(tmp_path, [{"prompt": "a", "completion": "bc"}], context=30))
    text = [END, *b"user:\na\nassistant:\nbc", END, *b"\n"]
    assert batch["inputs"].tolist() == [(text[:-1] + [END] * 30)[:30]]
    answer = text.index(ord("b"))
    expected = np.full(30, -100)
    expected[answer - 1 : answer + 2] = [ord("b"), ord("c"), END]
    assert batch["targets"].tolist() == [expected.tolist()]
    assert batch["targets"].roll(1).tolist() != [expected.tolist()]


@pytest.mark.parametrize("template", ["plain", "chatml"])
@pytest.mark.parametrize("tokenizer", [Byte(), Bpe(vocabulary=300)])
def test_what_is_learnt_is_the_answers(template: str, tokenizer: Any, tmp_path: Path) -> None:
    splits = _opened(tmp_path, template=template, tokenizer=tokenizer, context=128)
    batch = _all(splits)
    assert splits.tokenizer is not None
    close = "<|im_end|>" if template == "chatml" else ""
    for row, chat in enumerate(CHATS):
        targets = batch["targets"][row]
        learnt = targets[targets != -100].tolist()
        assert splits.tokenizer.decode(learnt).decode() == chat[1]["content"] + close
        assert learnt[-1] == splits.tokenizer.end_of_text
        scored = torch.nonzero(targets != -100).squeeze(1)
        after = scored[scored + 1 < 128] + 1
        assert (batch["inputs"][row][after] == targets[after - 1]).all()  # each target is the next input


def test_a_question_begins_as_generate_begins(tmp_path: Path) -> None:
    """``generate`` puts the end of a text before what it is given."""
    data = _data(tmp_path)
    splits = data.open(data.prepare(tmp_path / "cache"))
    assert splits.tokenizer is not None
    given = prompt_tokens(data.chat(splits.tokenizer), CHATS[0][:1], splits.tokenizer)
    typed = b"user:\nSay red.\nassistant:\n"
    assert given.tolist() == [splits.tokenizer.end_of_text, *splits.tokenizer.encode(typed)]
    assert _all(splits)["inputs"][0][: len(given)].tolist() == given.tolist()


def test_what_is_cut_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b" * 50}, {"prompt": "a" * 50, "completion": "b"}]
    rows += [{"prompt": "a", "completion": "b"}, {"messages": [{"role": "user", "content": "no answer"}]}]
    data, told = _data(tmp_path, rows, context=40), list[Event]()
    with listening(told.append):
        folder = data.prepare(tmp_path / "cache")
        data.prepare(tmp_path / "cache")
    events = [(event.kind, event.details.get("rows"), event.details.get("places")) for event in told]
    path = str(tmp_path / "chats.jsonl")
    of_each = [("rows-cut", 1, [f"{path}:1"]), ("rows-dropped", 1, [f"{path}:2"]), ("rows-empty", 1, [f"{path}:4"])]
    assert events[1:] == of_each * 2  # told whenever the data is used, not only when it is made
    assert len(data.open(folder).train) == 2
    verify(folder)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="no row is left to learn from"):
        _data(tmp_path, [{"prompt": "a" * 99, "completion": "b"}], context=8).prepare(tmp_path / "cache")


def test_questions_asked_twice_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number % 20}", "completion": f"a{number}"} for number in range(80)]
    splits = _opened(tmp_path, rows, held_out=0.4)
    assert splits.held_out is not None and splits.tokenizer is not None
    asked = []
    for part in (splits.train, splits.held_out):
        inputs = read(part, np.arange(len(part)))["inputs"]
        asked.append({splits.tokenizer.decode(row.tolist()).split(b"\n")[1] for row in inputs})
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 20


def test_held_out_files_are_used(tmp_path: Path) -> None:
    other = write_records(tmp_path / "judge.jsonl", [{"messages": CHATS[0]}])
    told: list[Event] = []
    with listening(told.append):
        splits = _opened(tmp_path, held_out_files=(str(other),), held_out=0.5)
    assert splits.held_out is not None
    assert (len(splits.train), len(splits.held_out)) == (len(CHATS), 1)
    assert [event.details["places"] for event in told if event.kind == "rows-shared"] == [[f"{other}:1"]]
    write_records(other, [{"prompt": "new", "completion": "x"}])
    with listening(told.append):
        _opened(tmp_path, held_out_files=(str(other),))
    assert [event.kind for event in told].count("rows-shared") == 1


def test_pad_is_chosen(tmp_path: Path) -> None:
    assert _all(_opened(tmp_path, pad=7))["inputs"][0][-1] == 7
    assert _all(_opened(tmp_path))["inputs"][0][-1] == END


def test_special_tokens_in_text_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": "a <|endoftext|> b", "completion": "c"}]
    data, told = _data(tmp_path, rows, tokenizer=local_tokenizer(tmp_path)), list[Event]()
    with listening(told.append):
        data.prepare(tmp_path / "cache")
    assert [event.kind for event in told][-1] == "rows-spelt"


@pytest.mark.parametrize("local", [False, True])
def test_half_a_character_is_taken(local: bool, tmp_path: Path) -> None:
    """JSON can hold one, and nothing else can write it."""
    tokenizer = local_tokenizer(tmp_path) if local else Byte()
    splits = _opened(tmp_path, [{"prompt": "a\ud83d", "completion": "b\udcff\ud83d"}], tokenizer=tokenizer)
    assert (_all(splits)["targets"] >= 0).sum() > 3


def test_other_content_template_and_tokenizer_are_other_data(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = _data(tmp_path).prepare(cache)
    assert _data(tmp_path).prepare(cache) == first
    others = [{"template": "chatml"}, {"context": 63}, {"tokenizer": Bpe(vocabulary=300)}, {"held_out": 0.1}]
    folders = {_data(tmp_path, **fields).prepare(cache) for fields in others}
    folders.add(_data(tmp_path, [{"messages": chat} for chat in CHATS[1:]]).prepare(cache))
    assert len(folders) == 5 and first not in folders


@pytest.mark.parametrize(
    ("row", "what", "where"),
    [
        ({"text": "hm"}, "no column 'messages'", ":1"),
        ({"prompt": "a"}, "no column 'completion'", ":1"),
        ({"messages": "hm"}, "messages are a str", ":1"),
        ({"messages": [{"role": "user", "content": 3}]}, "not text at message 1", ":1"),
    ],
)
def test_bad_records_are_named(row: dict[str, Any], what: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match=what) as caught:
        _data(tmp_path, [row]).prepare(tmp_path / "cache")
    assert caught.value.where.endswith(f"chats.jsonl{where}")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"template": "chatlm"}, "template"),
        ({"template": "{% for %}"}, "template"),
        ({"context": 0}, "context"),
        ({"held_out": 1.0}, "held_out"),
        ({"tokenizer": "byte"}, "tokenizer"),
        ({"template": "tokenizer"}, "template"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _data(tmp_path, **fields).prepare(tmp_path / "cache")
    assert caught.value.where == where
