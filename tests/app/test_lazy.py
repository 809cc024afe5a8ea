"""``import modelwright`` costs nothing, and every public name is there when it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import modelwright


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, modelwright; print(sorted({'torch', 'numpy', 'yaml', 'rich', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", modelwright.__all__)
def test_public_names_are_those_of_their_homes(name: str) -> None:
    home = importlib.import_module(modelwright._HOMES[name])
    assert getattr(modelwright, name) is getattr(home, name)


def test_public_names_are_listed() -> None:
    assert set(modelwright.__all__) == set(modelwright._HOMES)
    assert set(modelwright.__all__) <= set(dir(modelwright))
    assert dir(modelwright) == sorted(set(dir(modelwright)))


def test_a_star_import_gives_all_of_them() -> None:
    names: dict[str, object] = {}
    exec("from modelwright import *", names)
    assert set(modelwright.__all__) <= names.keys()


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'modelwright' has no attribute 'trian'"):
        modelwright.trian  # noqa: B018
