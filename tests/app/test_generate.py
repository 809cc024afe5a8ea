"""Text from a trained run: in pieces, for files of prompts, up to a stop word."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from tests.command import DIGITS, TEXT, invoke, trained, write_recipe

import modelwright
from modelwright.app.generate import TextWriter
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.models.writing.drawing import Sampling
from modelwright.models.writing.sampling import sample
from modelwright.runs import Run

PROMPTS = ["the text", "a few words, again and", "", "so"]


def said(*arguments: str) -> str:
    outcome = invoke("generate", "mine", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def write_prompts() -> None:
    rows = [{"prompt": prompt, "id": number} for number, prompt in enumerate(PROMPTS)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def writer(**sampling: object) -> TextWriter:
    training, _ = open_trained(Run.open("mine", Path("runs")), with_data=False)
    return TextWriter(training, Sampling(**sampling))  # type: ignore[arg-type]


def test_a_prompt_may_be_an_argument_or_an_option() -> None:
    trained("text", "mine")
    options = ("--length", "12", "--seed", "3")
    assert said("the text", *options) == said("--prompt", "the text", *options)
    outcome = invoke("generate", "mine", "the text", "--prompt", "the text")
    assert outcome.code == 2
    assert "more than once" in outcome.err


def test_a_file_of_prompts_gives_a_row_for_each_in_order() -> None:
    trained("text", "mine")
    write_prompts()
    told = said("--file", "prompts.jsonl", "--out", "out.jsonl", "--length", "9", "--batch", "3", "--json")
    assert json.loads(told) == {"rows": 4, "out": "out.jsonl"}
    rows = rows_of("out.jsonl")
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert all(row["finish"] == "length" and row["tokens"] == 9 for row in rows)
    first = json.loads(said(PROMPTS[0], "--length", "9", "--json"))
    assert rows[0]["text"] == first["text"]


@pytest.mark.parametrize("temperature", ["0", "1.0"])
def test_rows_do_not_depend_on_the_size_of_a_batch(temperature: str) -> None:
    trained("text", "mine")
    write_prompts()
    options = ("--file", "prompts.jsonl", "--length", "24", "--temperature", temperature)
    one = said(*options, "--batch", "1")
    assert said(*options, "--batch", "4") == one
    assert len(one.splitlines()) == 4
    assert said(*options, "--batch", "4", "--seed", "1") != one or temperature == "0"


def test_lines_of_text_in_and_out() -> None:
    trained("text", "mine")
    Path("prompts.txt").write_text("one\n\nthe text number\n")
    told = said("--file", "prompts.txt", "--out", "out.txt", "--length", "7")
    assert told == "2 rows in out.txt\n"
    assert len(Path("out.txt").read_text().splitlines()) == 2


def test_a_file_can_be_added_to_after_an_interruption() -> None:
    trained("text", "mine")
    write_prompts()
    options = ("--file", "prompts.jsonl", "--length", "8", "--temperature", "1.0")
    said(*options, "--out", "whole.jsonl")
    whole = Path("whole.jsonl").read_text()
    torn = whole.splitlines(keepends=True)
    Path("torn.jsonl").write_text(torn[0] + torn[1] + torn[2][:9])
    told = said(*options, "--out", "torn.jsonl", "--append", "--json")
    assert json.loads(told)["rows"] == 2
    assert Path("torn.jsonl").read_text() == whole
    refused = invoke("generate", "mine", *options, "--out", "torn.jsonl")
    assert refused.code == 2
    assert "there already" in refused.err and "--append" in refused.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_rows(kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet") if kind == "parquet" else None
    trained("text", "mine")
    write_prompts()
    said("--file", "prompts.jsonl", "--out", f"out.{kind}", "--length", "6")
    said("--file", "prompts.jsonl", "--out", "out.jsonl", "--length", "6")
    if parquet is not None:
        assert parquet.read_table("out.parquet").to_pylist() == rows_of("out.jsonl")
        return
    with Path("out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{name: str(value) for name, value in row.items()} for row in rows_of("out.jsonl")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_prompts_with_different_fields_keep_all_of_them_in_a_table(kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet") if kind == "parquet" else None
    trained("text", "mine")
    Path("prompts.jsonl").write_text('{"prompt": "a", "id": "x"}\n{"prompt": "b", "note": "y"}\n')
    said("--file", "prompts.jsonl", "--out", f"out.{kind}", "--length", "4", "--batch", "1")
    if parquet is not None:
        found = parquet.read_table("out.parquet").to_pylist()
    else:
        with Path("out.csv").open(newline="") as file:
            found = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    assert [(row["prompt"], row["id"], row["note"]) for row in found] == [("a", "x", None), ("b", None, "y")]


def free_text(length: int) -> tuple[int, str, str]:
    """A seed, the text that it gives, and three letters in it: three tokens, of one byte each."""
    for seed in range(200):
        text = "".join(writer(length=length, temperature=1.0, seed=seed).stream("the"))
        if word := re.search("[!-~]{3}", text[5:]):
            return seed, text, word.group()
    raise AssertionError


def test_a_stop_word_ends_the_text_wherever_its_tokens_lie() -> None:
    trained("text", "mine")
    seed, free, word = free_text(60)
    expected = free[: free.index(word)]
    options = {"length": 60, "temperature": 1.0, "top_k": None, "seed": seed}
    pieces = list(modelwright.generate("mine", "the", stop=["no such word", word], **options))
    assert "".join(pieces) == expected
    shell = ("--length", "60", "--temperature", "1", "--top-k", "0", "--seed", str(seed))
    assert json.loads(said("the", *shell, "--json")) == {"prompt": "the", "text": free}
    assert json.loads(said("the", *shell, "--stop", word, "--json"))["text"] == expected


def test_rows_say_why_a_text_ended() -> None:
    trained("text", "mine")
    seed, free, word = free_text(60)
    training, _ = open_trained(Run.open("mine", Path("runs")), with_data=False)
    stopped, cut = (
        TextWriter(training, Sampling(length=length, temperature=1.0, seed=seed), [word]).texts(["the"])[0]
        for length in (60, 4)
    )
    assert (stopped["finish"], stopped["text"]) == ("stop", free[: free.index(word)])
    assert 5 < stopped["tokens"] < 60
    assert (cut["finish"], cut["tokens"]) == ("length", 4)
    never = TextWriter(training, Sampling(length=4000, temperature=1.0, seed=seed)).texts(["the"])[0]
    assert never["finish"] == "end"
    assert never["tokens"] < 4000


@pytest.mark.parametrize(
    ("rows", "message", "remedy"),
    [
        ('{"prompt": "a"}\n{"text": "b"}\n', "no 'prompt'", '{"prompt": '),
        ('{"prompt": "a", "finish": 1}\n', "'finish'", "rename"),
        ("nonsense\n", "no JSON", "mend"),
    ],
)
def test_mistakes_in_files_of_prompts(rows: str, message: str, remedy: str) -> None:
    trained("text", "mine")
    Path("prompts.jsonl").write_text(rows)
    outcome = invoke("generate", "mine", "--file", "prompts.jsonl", "--out", "out.jsonl")
    assert outcome.code == 2
    what, where, *to_do = outcome.complaint
    assert message in what
    assert f"prompts.jsonl:{rows.count(chr(10))}" in where
    assert remedy in "".join(to_do)
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "out.jsonl"], "no file of prompts"),
        (["--file", "prompts.jsonl", "--out", "out.doc"], "'out.doc' is of no kind"),
        (["--file", "prompts.jsonl", "--out", "out.csv", "--append"], "only JSON lines"),
        (["--file", "nowhere.jsonl"], "cannot be read"),
        (["a", "--top-p", "0"], "top_p is above 0"),
        (["a", "--stop", ""], "stop word is empty"),
    ],
)
def test_mistakes_on_the_command_line(options: list[str], message: str) -> None:
    trained("text", "mine")
    write_prompts()
    outcome = invoke("generate", "mine", *options)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_run_without_text_is_refused() -> None:
    trained("digits", "mine")
    with pytest.raises(ModelwrightError, match="not text"):
        modelwright.generate("mine", "a")


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_a_run_of_chats_is_asked_as_it_learnt(template: str) -> None:
    """Greedy text after the question alone is what follows the sample's own tokens up to its answer."""
    pytest.importorskip("jinja2")
    data = f"use: synthetic-instructions, count: 40, context: 96, tokenizer: byte, template: {template}"
    write_recipe(TEXT | {"data": f"{{{data}}}", "evaluation": "{metrics: [token-accuracy]}"})
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    training, _ = open_trained(Run.open("mine", Path("runs")))
    batch = read(training.data.train, [0])
    border = int((batch["targets"][0] != -100).nonzero()[0]) + 1
    learnt = batch["inputs"][0, :border].tolist()
    rendered = bytes(learnt[1:]).decode()
    question = re.search("(?:What|Write|Which)[^?.]*[?.]", rendered)
    assert question is not None
    expected = sample(training.model, learnt, length=12, context=96, temperature=0.0, stop=256)
    wanted = bytes(token for token in expected if token < 256).decode(errors="replace")
    options = {"length": 12, "temperature": 0.0, "top_k": None}
    assert "".join(modelwright.generate("mine", question.group(), **options)) == wanted
    assert "".join(modelwright.generate("mine", rendered, **options)) == wanted
    unrendered = TextWriter(training, Sampling(length=12, temperature=0.0)).texts([question.group()])[0]["text"]
    assert unrendered != wanted


def test_models_that_do_not_continue_texts_are_refused() -> None:
    Path("rows.csv").write_text("text,label\n" + "".join(f"word {i},{'ab'[i % 2]}\n" for i in range(40)))
    data = "{use: text-classes, files: [rows.csv], length: 16, tokenizer: byte}"
    write_recipe(DIGITS | {"data": data, "model": "{use: text-convolution, width: 8, filters: 4}"})
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    with pytest.raises(ModelwrightError, match="is Classification, so its model does not continue texts") as caught:
        modelwright.generate("mine", "a")
    assert "predict" in caught.value.remedy
