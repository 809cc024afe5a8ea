from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import make_folder, read_json, replacing, write_json, write_text


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_json_comes_back_and_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    assert read_json(path) == {"a": [1, 2.5, None, "ü"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None, "ü"]}


def test_what_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="does not exist") as caught:
        read_json(tmp_path / "none.json")
    assert "none.json" in caught.value.where
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ModelwrightError, match="not JSON"):
        read_json(tmp_path / "bad.json")


def test_what_cannot_be_written_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelwrightError) as caught:
        make_folder(tmp_path / "file")
    assert caught.value.remedy
    with pytest.raises(ModelwrightError) as caught:
        write_text(tmp_path / "file" / "below", "x")
    assert caught.value.remedy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ModelwrightError, match="disk is full"),
        replacing(tmp_path / "a"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
    assert list(tmp_path.iterdir()) == []
