from __future__ import annotations

from pathlib import Path

import pytest
from tests.command import DIGITS, invoke, run_command, trained, yaml

from modelwright.app.trust import check_trust
from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run

COMMAND = '{use: "modelwright.launch.warm:subprocess.check_output", args: [touch, taken]}'
FIELDS = ["model", "data", "objective", "optimizer", "schedule"]


def _from_elsewhere(**fields: str) -> Path:
    run = trained("digits", "mine", status="stopped")
    (run / "recipe.yaml").write_text(yaml(DIGITS | fields))
    return run


@pytest.mark.parametrize("verb", ["evaluate", "resume"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_command_reached_through_our_own_modules_is_not_run(verb: str, field: str) -> None:
    _from_elsewhere(**{field: COMMAND})
    outcome = invoke(verb, "mine")
    assert not Path("taken").exists()
    assert outcome.code == 2
    assert "would run code of its own: modelwright.launch.warm:subprocess.check_output" in outcome.err
    assert "--trust" in outcome.err


def test_the_command_would_run_if_it_were_trusted() -> None:
    """The control: without it the test above would pass on a recipe that does nothing."""
    _from_elsewhere(model=COMMAND)
    run_command("evaluate", "mine", "--trust")
    assert Path("taken").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "übung:Modell"},
        {"data": "{use: text-files, files: ['*.txt'], tokenizer: 'stolen:Tokenizer'}"},
        {"evaluation": "{metrics: [accuracy, 'stolen:Metric']}"},
        {"model": "{use: mlp, hidden: [[{deep: ['stolen:Layer']}]]}"},
    ],
)
def test_foreign_code_is_found_wherever_it_is_named(fields: dict[str, str]) -> None:
    with pytest.raises(ModelwrightError, match=r"would run code of its own: (stolen|übung):"):
        check_trust(Run(_from_elsewhere(**fields)), trust=False)


@pytest.mark.parametrize("use", ["my-module:Model", "taking:", ":Model", "taking:Model:more", "a b:C", "taking:C "])
def test_what_has_no_import_path_s_shape_is_not_imported(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trust does not see must not run: modules of such names could be imported all the same."""
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("taking.py", "my-module.py", "a b.py"):
        Path(name).write_text("import pathlib\npathlib.Path('taken').touch()\nModel = C = dict\n")
    _from_elsewhere(model=f"'{use}'")
    outcome = invoke("evaluate", "mine")
    assert not Path("taken").exists()
    assert outcome.code == 2
    assert "no import path" in outcome.err


def test_listed_techniques_are_ours_by_name_and_by_path() -> None:
    check_trust(Run(_from_elsewhere(optimizer="modelwright.optim.adamw:AdamW")), trust=False)
