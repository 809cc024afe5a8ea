"""A ``.pt2`` can run code when it is read: one that this user did not write, as it is, is not read."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import command
from tests.export.cases import OWN, numbers

from modelwright.base.errors import ModelwrightError
from modelwright.export.artefact import export
from modelwright.export.runtimes import runtime_of
from modelwright.export.torch_export import read_facts, read_program

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    command.make_home(tmp_path, monkeypatch)
    return export(OWN["mlp"].model(), tmp_path / "model.pt2", numbers(3, 8), facts={"run": "mine"}).path


def changed(path: Path, ending: str, change: Any) -> None:
    """Write the archive anew, with the members that end so changed."""
    held = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    touched = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name in held.namelist():
            content = held.read(name)
            touched += (hit := name.endswith(ending))
            archive.writestr(name, change(content) if hit else content)
    assert touched, held.namelist()


def refuse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the file is loaded."""
    loaded: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "load", loaded.append)
        with pytest.raises(ModelwrightError, match="came from elsewhere") as caught:
            read_program(path)
    assert not loaded and "--trust" in caught.value.remedy


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_ones_own_is_read_wherever_it_was_moved(file: Path) -> None:
    shutil.move(file, file.with_name("moved.pt2"))
    program = read_program(file.with_name("moved.pt2")).module()
    with torch.no_grad():
        assert torch.equal(program(numbers(5, 8))[0], OWN["mlp"].model()(numbers(5, 8)))


def test_one_bit_of_a_weight(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(file, "weight_0", flipped)
    refuse(file, monkeypatch)
    assert read_program(file, trust=True)  # a trusted one is


def test_one_bit_of_what_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(file, "modelwright.json", lambda content: content.replace(b'"mine"', b'"hers"'))
    assert read_facts(file)[0]["run"] == "hers"
    refuse(file, monkeypatch)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_member_of_a_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        model = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        archive.writestr(model, archive.read(model))
    refuse(file, monkeypatch)


def test_another_member(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/more.json", "{}")
    refuse(file, monkeypatch)


def test_another_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(file.parent / "hers"))
    refuse(file, monkeypatch)


def test_one_that_torch_wrote(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(OWN["mlp"].model(), (numbers(3, 8),))
    torch.export.save(program, file)
    refuse(file, monkeypatch)
    with pytest.raises(ModelwrightError, match="no program that modelwright exported"):
        runtime_of(file).open(file, trust=True)


def test_one_that_is_no_archive(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"no archive")
    refuse(file, monkeypatch)
    with pytest.raises(ModelwrightError, match="cannot be read"):
        read_program(file, trust=True)
