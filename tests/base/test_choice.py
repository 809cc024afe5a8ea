from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelwright.base.choice import Family, import_path
from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.data import DATA, TOKENIZERS
from modelwright.models import MODELS
from modelwright.objectives import METRICS, OBJECTIVES
from modelwright.optim import OPTIMIZERS, SCHEDULES
from modelwright.parallel import EXCHANGES, LAYOUTS

FAMILIES = [DATA, TOKENIZERS, MODELS, METRICS, OBJECTIVES, OPTIMIZERS, SCHEDULES, EXCHANGES, LAYOUTS]
FAMILY = Family("path", {"pure": "pathlib:PurePath"})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_listed_technique_exists_and_goes_by_its_name(family: Family) -> None:
    for name in family.listing:
        technique = family.resolve(name)
        assert technique.__doc__
        assert family.short_name(technique) == name  # type: ignore[arg-type]


def test_listed_names_and_import_paths_resolve() -> None:
    assert FAMILY.resolve("pure") is FAMILY.resolve("pathlib:PurePath")
    assert import_path("pathlib:Path.home") == Path.home
    assert FAMILY.short_name(dict) == "builtins:dict"


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("pur", "did you mean 'pure'"),
        ("pathlib:PurPath", "did you mean 'PurePath'"),
        ("no_such_module:X", "no module 'no_such_module'"),
        ("pathlib:os", "is a module"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(use: str, said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        FAMILY.resolve(use)


def test_a_module_that_fails_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_module.py").write_text("x = 1\nraise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelwrightError, match="ValueError: no") as caught:
        import_path("failing_module:X")
    assert "failing_module.py:2" in caught.value.remedy


def test_a_missing_optional_part_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needing_module.py").write_text("import plotly\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra) as caught:
        import_path("needing_module:X")
    assert caught.value.remedy == "pip install 'modelwright[report]'"
