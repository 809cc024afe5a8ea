from __future__ import annotations

from pathlib import Path

import pytest
from tests.recipe.techniques import HERE, Adam, Files, Job, Mixture, Plain, Theirs

from modelwright.base.errors import Mistakes, ModelwrightError
from modelwright.recipe.foreign import Foreign
from modelwright.recipe.load import Loaded, read, read_source

GOOD = "source: {use: files, pattern: '*.py'}\nbatch: 8\n"


def job(text: str, *overrides: str) -> Job:
    return read(text, Job, source="job.yaml", overrides=overrides).recipe


def mistakes(text: str, *overrides: str) -> list[ModelwrightError]:
    with pytest.raises(ModelwrightError) as caught:
        job(text, *overrides)
    error = caught.value
    return error.errors if isinstance(error, Mistakes) else [error]


def only(text: str, *overrides: str) -> ModelwrightError:
    (error,) = mistakes(text, *overrides)
    assert len(str(error).splitlines()) <= 4
    assert error.remedy
    return error


def test_a_whole_recipe() -> None:
    read_job = job(
        """
title: no
solver: {use: adam, lr: 3e-4, betas: [0.8, 1], fused: true, mode: fast}
source:
  use: mixture
  parts:
    - {use: files, pattern: a, limit: 2GiB, root: some/folder}
    - {use: mixture, parts: [{use: files, pattern: b}]}
  weights: {a: 1, b: 0.5}
batch: 20k
pause: 1m30s
workers: 2
clip: null
tags: [x, "3"]
budget: {time: 90s}
"""
    )
    assert read_job.title == "no"
    assert read_job.solver == Adam(lr=3e-4, betas=(0.8, 1.0), fused=True, mode="fast")
    first = Files(pattern="a", limit=2**31, root=Path("some/folder"))
    assert read_job.source == Mixture(parts=(first, Mixture(parts=(Files(pattern="b"),))), weights={"a": 1.0, "b": 0.5})
    assert (read_job.batch, read_job.pause, read_job.workers, read_job.clip) == (20_000, 90.0, 2, None)
    assert read_job.tags == ("x", "3")
    assert (read_job.budget.kind, read_job.budget.amount) == ("time", 90.0)


def test_a_bare_name_and_defaults() -> None:
    assert job(GOOD).solver == Adam()
    assert job(GOOD + "solver: {use: plain, lr: 1}\n").solver == Plain(lr=1.0)
    assert job(GOOD + "solver: adam\n").solver == Adam()


def test_fields_without_use_belong_to_the_default_technique() -> None:
    assert job(GOOD + "solver: {lr: 0.5}\n").solver == Adam(lr=0.5)


def test_whole_numbers_may_be_written_as_floats_and_numbers_in_quotes() -> None:
    assert job(GOOD.replace("8", "1e3")).batch == 1000
    assert job(GOOD + 'solver: {use: adam, lr: "3e-4"}\n').solver == Adam(lr=3e-4)


WRONG = {
    "solver: {use: adam, lrr: 1}": ("has no field 'lrr'", "(solver.lrr)", "did you mean 'lr'?"),
    "sover: adam": ("a recipe has no field 'sover'", "(sover)", "did you mean 'solver'?"),
    "solver: {use: adma}": ("there is no solver named 'adma'", "(solver.use)", "did you mean 'adam'?"),
    "solver: adma": ("there is no solver named 'adma'", "(solver)", "did you mean 'adam'?"),
    "solver: {use: plain}": ("the solver 'plain' needs 'lr'", "(solver.lr)", "learning rate"),
    "solver: {use: adam, lr: abc}": (
        "'lr' must be a number, not the text 'abc'", "(solver.lr)", "peak learning rate (default: 0.001)",
    ),
    "solver: {use: adam, lr: true}": ("'lr' must be a number, not true", "(solver.lr)", "peak"),
    "solver: {use: adam, lr: .nan}": ("'lr' must be finite", "(solver.lr)", "peak"),
    "solver: {use: adam, lr: null}": ("'lr' must be a number, not null", "(solver.lr)", "peak"),
    "solver: {use: adam, lr: 0}": ("lr must be more than zero", "(solver.lr)", ""),
    "solver: {use: adam, lr: [1]}": ("'lr' must be a number, not a list", "(solver.lr)", "peak"),
    "solver: {use: adam, fused: yes}": ("must be true or false, not the text 'yes'", "(solver.fused)", "write true"),
    "solver: {use: adam, fused: 1}": ("must be true or false, not 1", "(solver.fused)", "one kernel"),
    "solver: {use: adam, mode: fsat}": ("one of exact, fast, not the text 'fsat'", "(solver.mode)", "'fast'"),
    "solver: {use: adam, betas: [1]}": ("must have 2 values, not 1", "(solver.betas)", "second moment"),
    "solver: {use: adam, betas: [1, x]}": ("'betas' must be a number", "(solver.betas.1)", "decay"),
    "solver: {use: plain, lr: 1, layers: [1, 2.5]}": (
        "'layers' must be a whole number, not 2.5", "(solver.layers.1)", "sizes",
    ),
    "solver: {use: plain, lr: 1, layers: 3}": ("must be a list, not 3", "(solver.layers)", "layers: [3]"),
    "solver: {use: 3}": ("'solver' must name a technique", "(solver.use)", "known: adam"),
    "solver: [adam]": ("'solver' must be the name of a technique", "(solver)", "known: adam"),
    "solver:": ("not empty", "(solver)", "known: adam"),
    "pause: soon": ("must be a duration such as 90s", "(pause)", "time between steps"),
    "pause: -3": ("must be a duration such as 90s, 10m or 1h30m, not -3", "(pause)", "time between steps"),
    "workers: atuo": ("must be a whole number or auto, not the text 'atuo'", "(workers)", "processes"),
    "workers: 1.5": ("must be a whole number or auto, not 1.5", "(workers)", "processes"),
    "title: 2024": ("'title' must be text, not 2024", "(title)", 'in quotes: "2024"'),
    "tags: one": ("must be a list", "(tags)", "tags: [one]"),
    "budget: 90s": ("must be a mapping", "(budget)", "steps, samples, tokens"),
    "budget: {}": ("exactly one of", "(budget)", "time: 90s"),
    "budget: {steps: 1, time: 1}": ("this one has steps and time", "(budget)", "keep one"),
    "budget: {steps: 0}": ("a budget of 0 steps trains nothing", "(budget.steps)", "more than zero"),
    "budget: {stesp: 1}": ("has no field 'stesp'", "(budget.stesp)", "did you mean 'steps'?"),
    "solver: nowhere.at_all:X": ("there is no module 'nowhere'", "(solver)", "install it"),
    f"solver: {HERE}:Owm": ("has no 'Owm'", "(solver)", "did you mean 'Own'?"),
    f"solver: {{use: '{HERE}:Own'}}": ("needs 'width'", "(solver.width)", "add  width"),
    f"solver: {{use: '{HERE}:Own', widht: 3, width: 1}}": ("has no field 'widht'", "(solver.widht)", "'width'"),
    f"solver: {{use: '{HERE}:Own', width: wide}}": ("'width' must be a whole number", "(solver.width)", None),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), WRONG.items())
def test_a_mistake_names_what_where_and_remedy(line: str, expected: tuple[str, str, str | None]) -> None:
    what, path, remedy = expected
    (error,) = mistakes(f"{GOOD}{line}\n")
    assert what in error.what
    assert error.where == f"job.yaml:3 {path}"
    assert remedy is None or remedy in error.remedy
    assert len(str(error).splitlines()) <= 4


def test_a_misspelt_field_is_not_missed_too() -> None:
    assert only("sourec: {use: files, pattern: x}\nbatch: 1\n").remedy == "did you mean 'source'?"
    assert only(GOOD + f"solver: {{use: '{HERE}:Own', widht: 3}}\n").remedy == "did you mean 'width'?"


def test_nested_choice_without_use_lists_the_names() -> None:
    error = only("source: {pattern: x}\nbatch: 1\n")
    assert "which technique" in error.what
    assert "known: files, mixture" in error.remedy


def test_all_mistakes_are_reported_together_in_the_order_of_the_text() -> None:
    found = mistakes(
        "solver:\n  use: adam\n  lr: abc\n  fussed: true\nsource:\n  use: mixture\n"
        "  parts: [{use: files}, {use: file}]\nbatch: many\nbatch: 3\nbudget: {steps: 0}\n"
    )
    lines = sorted(int(error.where.split(":")[1].split()[0]) for error in found)
    assert lines == [3, 4, 7, 7, 8, 9, 10]


def test_missing_fields_of_the_recipe() -> None:
    found = mistakes("title: x\n")
    assert [error.what for error in found] == [
        "a recipe needs 'source', which is missing",
        "a recipe needs 'batch', which is missing",
    ]
    assert "known: files" in found[0].remedy
    assert "samples of one step" in found[1].remedy


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "just words\n"])
def test_a_text_that_is_no_recipe(text: str) -> None:
    assert only(text).where.startswith("job.yaml")


def test_classes_of_the_users_own() -> None:
    solver = job(GOOD + f"solver: {{use: '{HERE}:Theirs', depth: 2}}\n").solver
    assert solver == Theirs(depth=2, rate=0.5)
    own = job(GOOD + f"solver: {{use: '{HERE}:Own', width: 2, names: [a], anything: {{b: [1]}}}}\n").solver
    assert own == Foreign(use=f"{HERE}:Own", arguments={"width": 2, "names": ("a",), "anything": {"b": [1]}})
    built = own.build()
    assert (built.width, built.names) == (2, ("a",))
    free = job(GOOD + f"solver: {{use: '{HERE}:own_function', lr: 1, more: x}}\n").solver
    assert isinstance(free, Foreign)
    assert free.build() == (1.0, {"more": "x"})


def test_a_constructor_that_raises_names_class_exception_line_and_place() -> None:
    own = job(GOOD + f"solver: {{use: '{HERE}:Own', width: 200}}\n").solver
    assert isinstance(own, Foreign)
    with pytest.raises(ModelwrightError) as caught:
        own.build()
    assert caught.value.what == f"'{HERE}:Own' failed while it was constructed: ValueError: too wide"
    assert caught.value.where == "job.yaml:3 (solver)"
    assert "techniques.py:" in caught.value.remedy


def test_a_loaded_recipe_knows_the_place_of_every_field() -> None:
    loaded = read(GOOD + "solver:\n  use: adam\n  lr: 1\n", Job, source="job.yaml", overrides=["clip=2"])
    assert isinstance(loaded, Loaded)
    assert loaded.where("solver.lr") == "job.yaml:5 (solver.lr)"
    assert loaded.where("solver.mode") == "job.yaml:3 (solver.mode, by default)"
    assert loaded.where("clip") == "command line (clip=2)"
    assert loaded.where("pause") == "job.yaml (pause, by default)"


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("a: 1\n", encoding="utf-8-sig")
    Path("picture.yaml").write_bytes(b"\xff\xfe\x00")
    assert read_source("mine.yaml") == ("a: 1\n", "mine.yaml")
    assert read_source("a: 1") == ("a: 1", "recipe")
    for name, what, remedy in [
        ("mien.yaml", "there is no recipe 'mien.yaml'", "did you mean 'mine.yaml'?"),
        ("picture.yaml", "not text in UTF-8", "save it as UTF-8"),
        (".", "a folder", "mine.yaml"),
    ]:
        with pytest.raises(ModelwrightError) as caught:
            read_source(name)
        assert what in caught.value.what
        assert remedy in caught.value.remedy
        assert caught.value.where
