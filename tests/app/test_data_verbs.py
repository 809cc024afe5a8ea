"""The verb ``data``: build, check, stats, show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.shards.made import alter, files_of, write_texts
from typer.testing import CliRunner, Result

from modelwright.app.data.show import spelt
from modelwright.cli.data import data_app
from modelwright.data.tokenizers.byte import ByteTokenizer

FILES = ("--files", "*.txt", "--root", "texts", "--tokenizer", "byte", "--shard-size", "2kB", "--workers", "1")


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(data_app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def shards() -> Path:
    write_texts(Path("texts"))
    result = _run("build", *FILES, "--out", "shards")
    assert result.exit_code == 0, result.stderr
    assert "token-shards" in result.stdout
    return Path("shards")


def test_a_recipe_and_its_files_build_the_same(shards: Path) -> None:
    recipe = "data: {use: text-files, files: ['*.txt'], root: texts, tokenizer: byte}\n"
    common = "model: {use: gpt, layers: 1, width: 16, heads: 2}\nobjective: next-token\noptimizer: adamw\n"
    Path("recipe.yaml").write_text(recipe + common + "batch: 8\nbudget: {steps: 2}\n")
    result = _run("build", "recipe.yaml", "--out", "other", "--shard-size", "2kB", "--workers", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert files_of(Path("other")) == files_of(shards)
    told = json.loads(result.stdout)
    assert told["splits"]["train"]["documents"] + told["splits"]["held_out"]["documents"] == 40
    Path("other/train-00000.bin").unlink()
    _run("build", "recipe.yaml", "--out", "other", "--shard-size", "2kB")
    assert files_of(Path("other")) == files_of(shards)


def test_a_tokenizer_that_is_there_is_used_again() -> None:
    write_texts(Path("texts"))
    wished = ("build", "--files", "*.txt", "--root", "texts", "--shard-size", "2kB", "--workers", "1", "--tokenizer")
    for tokenizer, folder in (("bpe:300", "first"), ("local:first", "second")):
        result = _run(*wished, tokenizer, "--out", folder)
        assert result.exit_code == 0, result.stderr
    assert files_of(Path("first"))["train-00000.bin"] == files_of(Path("second"))["train-00000.bin"]


def test_rows_are_documents_too() -> None:
    rows = [{"body": f"row number {number} of the table"} for number in range(50)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build = ("build", "--files", "rows.jsonl", "--text", "body", "--tokenizer", "bpe:300", "--out", "shards", "--json")
    told = json.loads(_run(*build).stdout)
    assert sum(split["documents"] for split in told["splits"].values()) == 50
    assert told["vocabulary"] <= 300


def test_check_finds_nothing_and_then_everything(shards: Path) -> None:
    result = _run("check", "shards")
    assert result.exit_code == 0 and "every hash is right" in result.stdout
    alter(shards / "train-00001.bin")
    (shards / "train-00002.idx").unlink()
    result = _run("check", "shards", "--json")
    assert result.exit_code == 2
    damaged = {row["path"]: row["reason"] for row in json.loads(result.stdout)["damaged"]}
    assert damaged.keys() == {"shards/train-00001.bin", "shards/train-00002.idx"}
    assert "hash" in damaged["shards/train-00001.bin"] and "missing" in damaged["shards/train-00002.idx"]
    assert "shards/train-00001.bin" in _run("check", "shards", "--quarantine").stdout
    assert {row["shard"] for row in json.loads((shards / "quarantine.json").read_text())["damaged"]} == {
        "train-00001",
        "train-00002",
    }
    assert _run("build", *FILES, "--out", "shards").exit_code == 0
    assert not (shards / "quarantine.json").exists()
    assert _run("check", "shards").exit_code == 0


def test_stats_count_tokens_and_what_windows_leave_out(shards: Path) -> None:
    told = json.loads(_run("stats", "shards", "--context", "7", "--context", "64", "--json").stdout)
    train = told["splits"]["train"]
    sizes = [entry["tokens"] for entry in json.loads((shards / "manifest.json").read_text())["splits"]["train"]]
    assert train["tokens"] == sum(sizes) and train["bytes_per_token"] == 1.0
    assert train["windows"]["7"]["count"] == sum((size - 1) // 7 for size in sizes)
    assert train["windows"]["64"]["dropped"] == sum((size - 1) % 64 for size in sizes)
    assert "windows of 64" in _run("stats", "shards", "--context", "64").stdout


def test_show_prints_what_the_model_sees_first(shards: Path) -> None:
    rows = json.loads(_run("show", "shards", "--n", "2", "--context", "32", "--json").stdout)
    assert len(rows) == 2 and all(len(row["tokens"]) == 32 for row in rows)
    tokens = [token for token in rows[0]["tokens"] if token < 256]
    assert bytes(tokens).decode("utf-8", "backslashreplace") == rows[0]["text"].replace("<end of text>", "")
    assert "sample" in _run("show", "shards").stdout
    other = json.loads(_run("show", "shards", "--n", "2", "--context", "32", "--seed", "1", "--json").stdout)
    assert [row["sample"] for row in other] != [row["sample"] for row in rows]


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    text = "a\x1b[2Jb\u202ec\nd\r\t\xff"
    shown = spelt([*text.encode(), 256, 255], ByteTokenizer())
    assert shown == "a\\x1b[2Jb\\u202ec\nd\\r\\t\xff<end of text>\\xff"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "--out", "x"), "either a recipe or files"),
        (("build", "demo", "--files", "*.txt", "--out", "x"), "either a recipe or files"),
        (("build", "--files", "*.nothing", "--out", "x"), "no file matches"),
        (("build", "--files", "*.txt", "--tokenizer", "bite", "--out", "x"), "no tokenizer named"),
        (("build", "--files", "*.txt", "--tokenizer", "local", "--out", "x"), "needs its folder"),
        (("build", "--files", "*.txt", "--tokenizer", "bpe:lots", "--out", "x"), "where: --tokenizer"),
        (("build", "--files", "*.py", "--shard-size", "huge", "--out", "x"), "where: --shard-size"),
        (("build", "--files", "*.txt", "--files", "*.jsonl", "--out", "x"), "files of rows"),
        (("build", "demo", "--held-out", "0.5", "--out", "x"), "held_out"),
        (("check", "nowhere"), "missing"),
        (("stats", "nowhere"), "missing"),
        (("show", "nowhere"), "missing"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2 and words in result.stderr
