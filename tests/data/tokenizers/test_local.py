from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from modelwright.base.errors import ModelwrightError
from modelwright.data import TOKENIZERS
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.bpe import BYTES, Bpe, BpeTokenizer
from modelwright.data.tokenizers.local import Local, LocalTokenizer
from modelwright.data.tokenizers.tokenizing import tokenizer_settings

CODE = [b"def first(values):\n    return values[0]  # na\xc3\xafve\n" * 5]


@pytest.fixture(scope="module")
def ours() -> BpeTokenizer:
    return Bpe(vocabulary=320).train(CODE)


@pytest.fixture(scope="module")
def local(ours: BpeTokenizer, tmp_path_factory: pytest.TempPathFactory) -> LocalTokenizer:
    folder = tmp_path_factory.mktemp("run")
    ours.save(folder)
    return Local(folder=str(folder)).train([])


@given(text=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_a_run_s_tokenizer_is_read_again(text: bytes, ours: BpeTokenizer, local: LocalTokenizer) -> None:
    tokens = local.encode(text)
    assert local.decode(tokens) == text
    assert int(local.token_bytes()[tokens].sum()) == len(text)
    if text.isascii():
        assert tokens.tolist() == ours.encode(text).tolist()


def test_numbers_are_those_of_the_tokenizer_that_was_saved(ours: BpeTokenizer, local: LocalTokenizer) -> None:
    assert (local.vocabulary, local.end_of_text) == (ours.vocabulary, ours.end_of_text)
    assert local.token_bytes().tolist() == ours.token_bytes().tolist()
    assert local.special == {"eos_token": "<|endoftext|>"}
    assert set(BYTES) == set(pre_tokenizers.ByteLevel.alphabet())


def test_special_tokens_are_text_unless_they_are_marked(local: LocalTokenizer) -> None:
    text = "a<|endoftext|>b"
    assert local.end_of_text not in local.encode(text.encode())
    tokens, places = local.encode_marked(text)
    assert tokens.tolist()[1] == local.end_of_text and places.tolist() == [[0, 1], [1, 14], [14, 15]]


def _words(folder: Path, **config: Any) -> Path:
    """A tokenizer of words, which knows nothing of bytes."""
    engine = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "sea": 2}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.decoder = decoders.Fuse()
    engine.add_special_tokens([AddedToken("[END]", special=True), AddedToken("[PAD]", special=True)])
    engine.enable_truncation(2)
    engine.enable_padding(length=9)
    engine.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_other_vocabularies_serve_but_for_bytes(tmp_path: Path) -> None:
    _words(tmp_path, eos_token={"content": "[END]"}, pad_token="[PAD]", chat_template="{{ messages }}", sep_token=None)
    tokenizer = Local(folder=str(tmp_path)).train([])
    assert (tokenizer.vocabulary, tokenizer.end_of_text, tokenizer.pad) == (5, 3, 4)
    assert tokenizer.template == "{{ messages }}"
    assert tokenizer.encode(b"red sea red").tolist() == [1, 2, 1]  # neither cut nor filled up
    assert tokenizer.decode([1, 3]) == b"red"
    with pytest.raises(ModelwrightError, match="byte-level vocabularies only") as caught:
        tokenizer.token_bytes()
    assert caught.value.where == str(tmp_path / "tokenizer.json") and "perplexity" in caught.value.remedy
    with pytest.raises(ModelwrightError, match="not UTF-8"):
        tokenizer.encode(b"red \xff")


def test_the_end_of_a_text_must_be_known(tmp_path: Path) -> None:
    _words(tmp_path)
    with pytest.raises(ModelwrightError, match="nothing says which token ends a text") as caught:
        Local(folder=str(tmp_path)).train([])
    assert "[END], [PAD]" in caught.value.remedy
    assert Local(folder=str(tmp_path), end_of_text="[END]").train([]).end_of_text == 3
    with pytest.raises(ModelwrightError, match="no token '<s>'"):
        Local(folder=str(tmp_path), end_of_text="<s>").train([])


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_missing_and_damaged_files_are_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelwrightError) as caught:
        Local(folder=str(tmp_path)).train([])
    assert caught.value.where == str(tmp_path / "tokenizer.json")


def test_saved_copies_are_whole(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    _words(source, eos_token="[END]")
    (source / "chat_template.jinja").write_text("{{ 1 }}", encoding="utf-8")
    technique = Local(folder=str(source))
    technique.train([]).save(copy)
    again = technique.load(copy)
    again.save(copy)
    assert (again.end_of_text, again.template) == (3, "{{ 1 }}")


def test_another_file_is_another_tokenizer(tmp_path: Path) -> None:
    technique = Local(folder=str(_words(tmp_path)), end_of_text="[END]")
    before = tokenizer_settings(technique)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert tokenizer_settings(technique) != before


def test_text_is_tokenised_with_it(local: LocalTokenizer, tmp_path: Path) -> None:
    local.save(tmp_path)
    (tmp_path / "a.txt").write_bytes(CODE[0])
    technique = TOKENIZERS.resolve("local")(folder=str(tmp_path))
    data = TextFiles(files=("*.txt",), root=str(tmp_path), tokenizer=technique, held_out=0.0, context=8)
    splits = data.open(data.prepare(tmp_path / "cache"))
    assert splits.facts == {"vocabulary": local.vocabulary}
    inputs = np.concatenate([splits.train.__getitems__([place])["inputs"][0] for place in range(len(splits.train))])  # type: ignore[attr-defined]
    assert CODE[0].startswith(local.decode(inputs))
