"""What a run says about samples: the same as its evaluation, in order, to any kind of file."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.command import DIGITS, invoke, trained, write_recipe
from torch import nn

import modelwright
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.runs import Run


def predicted(*arguments: str) -> list[dict[str, Any]]:
    outcome = invoke("predict", "mine", *arguments)
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def opened() -> Any:
    return open_trained(Run.open("mine", Path("runs")))[0]


def scores() -> dict[str, Any]:
    outcome = invoke("evaluate", "mine", "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = outcome.json()
    return found


def test_predictions_of_the_held_out_data_are_those_that_evaluate_scores() -> None:
    trained("digits", "mine")
    rows = predicted()
    assert [row["row"] for row in rows] == list(range(len(opened().data.held_out)))
    right = sum(row["class"] == row["target"] for row in rows) / len(rows)
    assert right == pytest.approx(scores()["accuracy"], abs=1e-12)
    assert 0 < right < 1  # and so the comparison means something
    assert all(0.1 <= row["probability"] <= 1 for row in rows)


def test_probabilities_are_those_of_the_model() -> None:
    trained("digits", "mine")
    training, rows = opened(), predicted()
    batch = read(training.data.held_out, range(len(rows)))
    with torch.no_grad():
        shares = training.model.eval()(batch["inputs"]).double().softmax(-1)
    for row, share in zip(rows, shares, strict=True):
        assert row["class"] == int(share.argmax())
        assert row["probability"] == pytest.approx(float(share.max()), rel=1e-5)


def test_losses_of_a_language_model_add_up_to_those_that_evaluate_scores() -> None:
    trained("text", "mine")
    rows, scored = predicted(), scores()
    tokens = sum(row["tokens"] for row in rows)
    assert sum(row["loss"] * row["tokens"] for row in rows) / tokens == pytest.approx(scored["loss"], rel=1e-6)
    # Its tokens are bytes, each as long as the other.
    bits = sum(row["bits_per_byte"] * row["tokens"] for row in rows) / tokens
    assert bits == pytest.approx(scored["bits-per-byte"], rel=1e-2)


def test_texts_are_scored_as_the_model_reads_them() -> None:
    trained("text", "mine")
    texts = ["a few words", "", "again, and more than one window of the context of this model"]
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = predicted("--file", "texts.jsonl")
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["tokens"] for row in rows] == [len(text) for text in texts]
    assert rows[1]["loss"] is None
    model = opened().model.eval()
    for row, text in ((rows[0], texts[0]), (rows[2], texts[2])):
        expected = textbook_nats(model, text, 16)
        assert row["loss"] * row["tokens"] == pytest.approx(expected, rel=1e-5)
        assert row["bits_per_byte"] == pytest.approx(expected / math.log(2) / len(text), rel=1e-5)


def textbook_nats(model: nn.Module, text: str, context: int) -> float:
    tokens, nats = [256, *text.encode()], 0.0
    for begin in range(0, len(text), context):
        window = tokens[begin : begin + context + 1]
        with torch.no_grad():
            losses = model(torch.tensor([window[:-1]]))[0].double().log_softmax(-1)
        nats -= sum(float(losses[place, token]) for place, token in enumerate(window[1:]))
    return nats


def test_arrays_of_new_samples() -> None:
    trained("digits", "mine")
    batch = read(opened().data.held_out, range(70))
    np.save("new.npy", batch["inputs"].double().numpy())
    Path("new.jsonl").write_text("".join(json.dumps({"inputs": row}) + "\n" for row in batch["inputs"].tolist()))
    expected = [{name: row[name] for name in ("row", "class", "probability")} for row in predicted()[:70]]
    for file in ("new.npy", "new.jsonl"):
        rows = predicted("--file", file)
        assert [row["class"] for row in rows] == [row["class"] for row in expected]
        assert [row["row"] for row in rows] == list(range(70))
        assert all(row.keys() == {"row", "class", "probability"} for row in rows)


def test_rows_of_a_table_come_back_under_the_names_of_their_classes() -> None:
    lines = [f"{i % 7},{'red' if i % 2 else 'blue'},{'big' if i % 7 > 3 else 'small'}" for i in range(120)]
    Path("table.csv").write_text("size,colour,kind\n" + "\n".join(lines) + "\n")
    write_recipe(
        DIGITS
        | {"data": "{use: csv, files: [table.csv], target: kind, held_out: 0.25}", "model": "{use: mlp, hidden: [16]}"}
        | {"budget": "{steps: 60}", "optimizer": "{use: adamw, lr: 0.01}"}
    )
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    rows = predicted()
    assert {row["class"] for row in rows} == {row["target"] for row in rows} == {"big", "small"}
    right = sum(row["class"] == row["target"] for row in rows) / len(rows)
    assert right == pytest.approx(scores()["accuracy"], abs=1e-12)
    Path("new.csv").write_text("colour,size\nred,6\nblue,0\n")
    assert [row["class"] for row in predicted("--file", "new.csv")] == ["big", "small"]
    np.save("new.npy", np.array([[6.0, 0.0], [0.0, 1.0]]))
    refused = invoke("predict", "mine", "--file", "new.npy")  # it would be read without being standardised
    assert refused.code == 2
    assert "does not say which column is which" in refused.err
    Path("bad.csv").write_text("colour,size\nred,6\nblue,\n")
    refused = invoke("predict", "mine", "--file", "bad.csv")
    assert refused.code == 2
    assert "bad.csv, rows 1 to 2" in refused.err


LABELLED = {"good": "a fine and lovely day", "bad": "an awful, dull evening"}


def test_new_texts_are_read_as_the_labelled_ones_were() -> None:
    rows = [f'"{text} {i % 7}",{label}' for i in range(40) for label, text in LABELLED.items()]
    Path("texts.csv").write_text("said,label\n" + "\n".join(rows) + "\n")
    write_recipe(
        DIGITS
        | {"data": "{use: text-classes, files: [texts.csv], text: said, length: 24, tokenizer: byte, held_out: 0.3}"}
        | {"model": "{use: text-convolution, width: 16}", "budget": "{steps: 40}"}
        | {"optimizer": "{use: adamw, lr: 0.01}"}
    )
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    held = predicted()
    assert {row["target"] for row in held} == set(LABELLED)
    training = opened()
    texts = [*LABELLED.values(), "a fine"]
    Path("new.jsonl").write_text("".join(json.dumps({"said": text}) + "\n" for text in texts))
    found = predicted("--file", "new.jsonl")
    assert [row["class"] for row in found[:2]] == list(LABELLED)
    for row, text in zip(found, texts, strict=True):  # each alone, its tokens padded by hand
        cut = list(text.encode())[:24]
        batch = {"inputs": torch.tensor([cut + [0] * (24 - len(cut))]), "lengths": torch.tensor([len(cut)])}
        batch["targets"] = torch.tensor([-100])
        with torch.no_grad():
            shares = training.objective.forward(training.model.eval(), batch).double().softmax(-1)
        assert row["class"] == training.data.classes[int(shares.argmax())]
        assert row["probability"] == pytest.approx(float(shares.max()), rel=1e-5)
    for rows_, message in (('said\nfine\n""\n', "'said' is empty"), ("text\nfine\n", "no column 'said'")):
        Path("bad.csv").write_text(rows_)
        refused = invoke("predict", "mine", "--file", "bad.csv")
        assert refused.code == 2
        assert message in refused.err
        assert "bad.csv, rows 1 to" in refused.err


def test_new_images_are_read_as_the_labelled_ones_were() -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)

    def striped(label: str, size: int) -> Any:
        stripes = np.where(np.arange(size) * 8 // size % 4 < 2, 220, 30) + random.normal(0, 10, (size, size))
        return np.clip(stripes if label == "upright" else stripes.T, 0, 255).astype(np.uint8)

    for number in range(30):
        for label in ("flat", "upright"):
            folder = Path("images", label)
            folder.mkdir(parents=True, exist_ok=True)
            image.fromarray(striped(label, 8)).convert("RGB").save(folder / f"{number:02}.png")
    write_recipe(
        DIGITS
        | {"data": "{use: image-folder, folder: images, size: 8, held_out: 0.3}", "budget": "{steps: 40}"}
        | {"model": "{use: convnet, widths: [8], depths: [1]}", "optimizer": "{use: adamw, lr: 0.01}"}
    )
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    held = predicted()
    new = Path("new", "inner")
    new.mkdir(parents=True)
    for number, label in enumerate(("flat", "upright", "flat")):
        image.fromarray(striped(label, 16)).save(new / f"{number}.png")  # grey, and of another size
    rows = predicted("--file", "new")
    assert [row["file"] for row in rows] == [f"new/inner/{number}.png" for number in range(3)]
    assert [row["class"] for row in rows] == ["flat", "upright", "flat"]
    assert predicted("--file", "new/inner/1.png") == [rows[1] | {"row": 0}]
    Path("new", "list.csv").write_text("path\ninner/2.png\ninner/1.png\n")  # paths from the folder of the list
    assert [row["class"] for row in predicted("--file", "new/list.csv")] == ["flat", "upright"]
    assert {row["class"] for row in held} == {"flat", "upright"}
    (new / "3.png").write_bytes(b"no image")
    refused = invoke("predict", "mine", "--file", "new")
    assert refused.code == 2
    assert "new/inner/3.png" in refused.err
    refused = invoke("predict", "mine", "--file", "images/none")
    assert "does not exist" in refused.err


def test_numbers_come_back_in_their_units() -> None:
    lines = [f"{i % 10},{1000 + 30 * (i % 10)}" for i in range(100)]
    Path("table.csv").write_text("x,price\n" + "\n".join(lines) + "\n")
    write_recipe(
        DIGITS
        | {"data": "{use: csv, files: [table.csv], target: price, held_out: 0.2, kind: regression}"}
        | {"objective": "regression", "budget": "{steps: 200}", "optimizer": "{use: adamw, lr: 0.01}"}
    )
    outcome = invoke("train", "recipe.yaml", "--name", "mine")
    assert outcome.code == 0, outcome.err
    for row in predicted():
        assert row["value"] == pytest.approx(row["target"], abs=40)
        assert round(row["target"], 3) in range(1000, 1300, 30)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_hold_the_rows_in_order(kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet") if kind == "parquet" else None
    trained("digits", "mine")
    expected = predicted()
    outcome = invoke("predict", "mine", "--out", f"out.{kind}", "--json")
    assert outcome.json() == {"rows": len(expected), "out": f"out.{kind}"}
    if parquet is not None:
        assert parquet.read_table("out.parquet").to_pylist() == expected
    elif kind == "jsonl":
        assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == expected
    else:
        with Path("out.csv").open(newline="") as file:
            assert list(csv.DictReader(file)) == [{name: str(value) for name, value in row.items()} for row in expected]


def test_a_file_can_be_added_to_after_an_interruption() -> None:
    trained("digits", "mine")
    invoke("predict", "mine", "--out", "whole.jsonl")
    whole = Path("whole.jsonl").read_text()
    Path("torn.jsonl").write_text(whole[: len(whole) // 2])
    assert invoke("predict", "mine", "--out", "torn.jsonl", "--append").code == 0
    assert Path("torn.jsonl").read_text() == whole


@pytest.mark.parametrize(
    ("file", "message"),
    [("nowhere.npy", "does not exist"), ("words.jsonl", "does not say what the columns"), ("no.npy", "no .npy array")],
)
def test_files_that_cannot_be_read(file: str, message: str) -> None:
    trained("digits", "mine")
    Path("words.jsonl").write_text('{"text": "a"}\n')
    Path("no.npy").write_text("nothing")
    outcome = invoke("predict", "mine", "--file", file)
    assert outcome.code == 2
    assert message in outcome.err
    assert file in outcome.err


def test_python_gives_outputs_of_a_run_and_of_a_module() -> None:
    trained("digits", "mine")
    training = opened()
    batch = read(training.data.held_out, range(len(training.data.held_out)))
    with torch.no_grad():
        expected = training.model.eval()(batch["inputs"])
    torch.testing.assert_close(modelwright.predict("mine"), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(modelwright.predict("mine", batch["inputs"][:40]), expected[:40], rtol=0, atol=1e-5)
    module = training.model.train()
    found = modelwright.predict(module, batch["inputs"][:40], micro_batch=7)
    torch.testing.assert_close(found, expected[:40], rtol=0, atol=1e-5)
    assert module.training
    with pytest.raises(ModelwrightError, match="no samples"):
        modelwright.predict(module)


def test_dropout_is_off_and_modes_come_back() -> None:
    module = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5)).train()
    x = torch.randn(9, 3)
    with torch.no_grad():
        expected = module[0](x)
    torch.testing.assert_close(modelwright.predict(module, x), expected)
    assert module[1].training
