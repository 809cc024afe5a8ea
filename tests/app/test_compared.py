"""A run whose objective compares with its start is scored against that start, or not at all."""

from __future__ import annotations

from pathlib import Path

from tests.command import DIGITS, change_json, invoke, write_recipe

from modelwright.base.files import read_json

PREFERENCES = DIGITS | {
    "model": "{use: gpt, layers: 1, width: 16, heads: 2}",
    "data": "{use: synthetic-preferences, context: 64, tokenizer: byte}",
    "objective": "preference",
    "batch": "8",
    "budget": "{steps: 2}",
    "saving": "{every: 1}",
}


def test_scores_against_another_start_are_refused() -> None:
    assert invoke("train", str(write_recipe(PREFERENCES)), "--name", "preferring").code == 0
    assert invoke("evaluate", "preferring").code == 0
    (newest,) = Path("runs/preferring/checkpoints").glob("step-00000002")
    parts = read_json(newest / "state.json")["parts"]
    assert parts["reference"]["sha256"]
    change_json(newest / "state.json", parts={"reference": {"sha256": "0" * 64}})
    outcome = invoke("evaluate", "preferring")
    assert outcome.code == 2
    assert "compares with other weights than before" in outcome.err
