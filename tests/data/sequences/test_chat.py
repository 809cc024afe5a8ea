"""Which part of a chat is learnt: against examples by hand, and against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from modelwright.base.errors import ModelwrightError
from modelwright.data.sequences.answers import shifted, tokens_of
from modelwright.data.sequences.chat import END, TEMPLATES, Chat, chat_of, check_messages, template_source
from modelwright.data.tokenizers.byte import Byte, ByteTokenizer
from modelwright.data.tokenizers.local import Local

USER = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
THANKS = {"role": "user", "content": "Thanks.\n"}
WELCOME = {"role": "assistant", "content": "Wel\ncome, née!"}
CHAT = [{"role": "system", "content": "Be brief."}, USER, FOUR, THANKS, WELCOME]
CHATML = (
    "{% for message in messages %}\n{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
FORGETFUL = (  # leaves out earlier answers, as templates of reasoning models do with their thoughts
    "{% for message in messages %}{% if message.role == 'user' or loop.last %}"
    "{{ message.role + ': ' + message.content + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _special(*chats: str) -> list[AddedToken]:
    return [AddedToken(text, special=True, normalized=False) for text in chats]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder as transformers writes it."""
    transformers = pytest.importorskip("transformers")
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        show_progress=False,
    )
    engine.train_from_iterator(["system user assistant Welcome, née! Be brief.\n\n Thanks."] * 9, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = MARKED
    path = tmp_path_factory.mktemp("tokenizer")
    wrapped.save_pretrained(path)
    return path


def test_the_mask_is_the_one_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    tokenizer = Local(folder=str(folder)).train([])
    tokens, learnt = tokens_of(chat_of("tokenizer", tokenizer).pieces(CHAT), tokenizer)
    assert tokens.tolist() == theirs["input_ids"]
    assert learnt.astype(int).tolist() == theirs["assistant_masks"]
    assert 0 < learnt.sum() < len(learnt)
    assert np.roll(learnt, 1).astype(int).tolist() != theirs["assistant_masks"]  # the check can fail


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("source", [CHATML, TEMPLATES["chatml"], TEMPLATES["plain"]])
def test_texts_are_those_of_transformers(source: str, prompt: bool, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Local(folder=str(folder)).train([])
    expected = theirs.apply_chat_template(CHAT, chat_template=source, tokenize=False, add_generation_prompt=prompt)
    assert Chat(source, tokenizer.special).render(CHAT, prompt=prompt) == expected
    assert chat_of("tokenizer", tokenizer).source == MARKED


def test_learnt_text_by_hand() -> None:
    pieces = Chat(TEMPLATES["plain"], {"eos_token": "<e>"}).pieces(CHAT)
    assert [piece.text for piece in pieces if piece.learnt] == ["4<e>", "Wel\ncome, née!<e>"]
    whole = "system:\nBe brief.\nuser:\n2+2?\nassistant:\n4<e>\nuser:\nThanks.\n\nassistant:\nWel\ncome, née!<e>\n"
    assert "".join(piece.text for piece in pieces) == whole


def test_unmarked_templates_are_told_by_comparing(folder: Path) -> None:
    pieces = Chat(CHATML, {}).pieces(CHAT)
    assert [piece.text for piece in pieces if piece.learnt] == ["4<|im_end|>\n", "Wel\ncome, née!<|im_end|>\n"]
    assert "".join(piece.text for piece in pieces) == Chat(CHATML, {}).render(CHAT)


def test_byte_masks_by_hand() -> None:
    """User, then one letter of an answer, then the end: three targets are learnt, each beside its own input."""
    tokenizer = ByteTokenizer()
    tokens, learnt = tokens_of(chat_of("plain", tokenizer).pieces([USER, FOUR]), tokenizer)
    assert tokens.tolist() == [256, *b"user:\n2+2?\nassistant:\n4", 256, *b"\n"]
    inputs, targets = shifted(tokens, learnt)
    scored = np.flatnonzero(targets != -100)
    assert [(int(inputs[place]), int(targets[place])) for place in scored] == [(ord("\n"), ord("4")), (ord("4"), 256)]


def test_answers_do_not_change_the_tokens_of_questions(folder: Path) -> None:
    """What generation sees is what training saw, even where tokens would run across the border."""
    tokenizer = Byte().train([])
    chat = chat_of("chatml", tokenizer)
    whole, _ = tokens_of(chat.pieces([USER, WELCOME]), tokenizer)
    asked = chat.render([USER], prompt=True).replace(END, "")
    assert whole[1 : 1 + len(asked)].tolist() == tokenizer.encode(asked.encode()).tolist()


def test_templates_that_forget_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="'forgetful' does not say what message 3 is") as caught:
        Chat(FORGETFUL, {}, "forgetful").pieces(CHAT, "chats.jsonl:3")
    assert caught.value.where == "chats.jsonl:3" and "generation" in caught.value.remedy
    assert len(Chat(FORGETFUL, {}).pieces([USER, FOUR])) == 2  # of one answer nothing is forgotten


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{% for %}", "is no Jinja"),
        ("{{ raise_exception('roles must alternate') }}", "failed: roles must alternate"),
        ("{{ messages.append(1) }}", "failed: .*unsafe"),
        ("{{ ''.__class__.__mro__ }}", "failed: .*unsafe"),
        ("{{ messages[0].content + 1 }}", "failed: TypeError"),
    ],
)
def test_bad_templates_are_told(source: str, what: str) -> None:
    with pytest.raises(ModelwrightError, match=what):
        Chat(source, {}).pieces(CHAT)


def test_templates_are_found_by_name_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHATML, encoding="utf-8")
    assert template_source(str(tmp_path / "mine.jinja")) == template_source(CHATML) == CHATML
    for name, remedy in (("chatlm", "did you mean 'chatml'"), ("tokenizer", "plain, chatml")):
        with pytest.raises(ModelwrightError) as caught:
            template_source(name, ByteTokenizer())
        assert caught.value.where == "template" and remedy in caught.value.remedy
    with pytest.raises(ModelwrightError, match="cannot be read"):
        template_source(str(tmp_path / "gone.jinja"))


@pytest.mark.parametrize(
    "messages",
    [None, [], "hello", [{"role": "user"}], [{"role": "user", "content": [1]}], [["user", "hi"]], [USER, 3]],
)
def test_bad_messages_name_their_record(messages: Any) -> None:
    with pytest.raises(ModelwrightError) as caught:
        check_messages(messages, "chats.jsonl:3")
    assert caught.value.where == "chats.jsonl:3" and "role" in caught.value.remedy


def test_the_character_that_ends_texts_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="U\\+FDD0"):
        check_messages([{"role": "user", "content": f"a{END}b"}], "here")


def test_json_is_not_written_for_html() -> None:
    assert Chat("{{ messages | tojson }}", {}).render([{"role": "<user>", "content": "é"}]) == (
        '[{"role": "<user>", "content": "é"}]'
    )
