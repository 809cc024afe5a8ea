from __future__ import annotations

import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.tokenizers import bpe
from modelwright.data.tokenizers.bpe import END_OF_TEXT, FILE, Bpe, BpeTokenizer

CODE = [inspect.getsource(module).encode() for module in (inspect, events, pytest)]
UTF8 = ["", "x", "\n\n    def f(self):\n\t\treturn 1", "naïve 東京 🎈\r\n  ok", *(text.decode() for text in CODE)]


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    return Bpe(vocabulary=600).train(CODE)


@given(text=st.binary(max_size=300))
def test_any_bytes_come_back(text: bytes, tokenizer: BpeTokenizer) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.token_bytes()[tokens].sum() == len(text)


@given(text=st.text(alphabet=" \t\r\n._(a1é", max_size=60))
def test_pieces_cover_the_text(text: str, tokenizer: BpeTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text.encode())) == text.encode()


@pytest.mark.parametrize("text", UTF8)
def test_the_saved_file_is_one_of_the_tokenizers_library(text: str, tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / FILE))
    assert theirs.encode(text).ids == tokenizer.encode(text.encode()).tolist()
    assert theirs.decode(theirs.encode(text).ids) == text
    assert theirs.token_to_id(END_OF_TEXT) == tokenizer.end_of_text


@given(text=st.text(alphabet=" \t\r\n._(a1é\"'#=", max_size=60))
def test_tokens_are_the_librarys(text: str, tokenizer: BpeTokenizer) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer._public().to_str())
    assert engine.encode(text).ids == tokenizer.encode(text.encode()).tolist()


def test_learning_makes_fewer_tokens(tokenizer: BpeTokenizer) -> None:
    text = CODE[0]
    assert len(tokenizer.encode(text)) < 0.5 * len(text)
    assert len(Bpe(vocabulary=257).train(CODE).encode(text)) == len(text)  # no merges: one token per byte


def test_the_vocabulary_is_what_was_asked_for_or_what_there_is() -> None:
    assert Bpe(vocabulary=600).train(CODE).vocabulary == 600
    assert Bpe(vocabulary=600).train([b"aaaa"]).vocabulary < 265


def test_forgetting_changes_nothing(tokenizer: BpeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [tokenizer.encode(text).tolist() for text in CODE]
    monkeypatch.setattr(bpe, "_REMEMBERED", 10)
    assert [tokenizer.encode(text).tolist() for text in CODE] == expected


@pytest.mark.parametrize("before", [None, "true"])
def test_the_environment_is_left_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if before is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    Bpe(vocabulary=300).train(CODE).encode(b"some text")
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="cannot hold the 256 bytes"):
        Bpe(vocabulary=256)


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "WordLevel"}}', "no json"])
def test_foreign_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ModelwrightError) as caught:
        Bpe().load(tmp_path)
    assert caught.value.where == str(tmp_path / FILE)


def test_numbers_of_numpy_decode(tokenizer: BpeTokenizer) -> None:
    assert tokenizer.decode(np.array([tokenizer.end_of_text, *tokenizer.encode(b"def")])) == b"def"
