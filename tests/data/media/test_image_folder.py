"""Decoded images against Pillow and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.data.labelled import write_images

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data import Splits
from modelwright.data.batches import read
from modelwright.data.manifest import read_manifest, verify
from modelwright.data.media.image_folder import ImageFolder, squared
from modelwright.testing.data import digest


def _opened(folder: Path, **fields: Any) -> Splits:
    data = ImageFolder(folder=str(folder), **({"held_out": 0.0} | fields))
    return data.open(data.prepare(folder.parent / "cache"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_samples_are_what_pillow_makes(resize: Any, channels: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    splits = _opened(root, size=6, channels=channels, resize=resize)
    paths = sorted(root.rglob("*.png"))
    batch = read(splits.train, np.arange(len(paths)))
    assert splits.facts == {"channels": channels, "image_size": 6, "classes": 2}
    assert batch["targets"].tolist() == [0] * 5 + [1] * 5
    for path, sample in zip(paths, batch["inputs"], strict=True):
        image = Image.open(path).convert("L" if channels == 1 else "RGB")
        pillow = {"crop": ImageOps.fit, "pad": ImageOps.pad, "stretch": Image.Image.resize}[resize]
        made = np.asarray(pillow(image, (6, 6), Image.Resampling.BILINEAR))  # type: ignore[operator]
        expected = made[None] if channels == 1 else np.moveaxis(made, 2, 0)
        assert sample.shape == (channels, 6, 6) and (sample.numpy() == expected).all()


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    (tmp_path / "images" / "one").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "images" / "one" / "a.png")
    found = read(_opened(tmp_path / "images", size=5).train, [0])["inputs"][0].numpy()
    assert (found == pixels.transpose(2, 0, 1)).all()
    assert not (found == pixels.transpose(2, 1, 0)).all()  # height and width are told apart


def test_modes_become_plain() -> None:
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    clear[0] = 255
    assert squared(Image.fromarray(clear), 2, 1, "crop")[0].tolist() == [[255, 255], [0, 0]]
    deep = np.array([[0, 256], [32768, 65535]], dtype=np.uint16)
    assert squared(Image.fromarray(deep), 2, 1, "crop")[0].tolist() == [[0, 1], [128, 255]]
    palette = Image.fromarray(clear[..., :3]).convert("P")
    palette.info["transparency"] = b"\xff" * 256
    assert squared(palette, 2, 3, "crop").shape == (3, 2, 2)
    turned = Image.new("L", (2, 1))
    turned.putdata([10, 200])
    turned.getexif()[0x0112] = 3  # held upside down
    assert squared(turned, 2, 1, "stretch")[0].tolist() == [[200, 10], [200, 10]]
    with pytest.raises(ValueError, match="no scale"):
        squared(Image.new("F", (2, 2)), 2, 1, "crop")


def test_any_number_of_threads_writes_the_same(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", count=40)
    folders = [
        ImageFolder(folder=str(root), size=4, threads=threads).prepare(tmp_path / f"cache{threads}")
        for threads in (1, 3)
    ]
    assert digest(folders[0]) == digest(folders[1]) and folders[0].name == folders[1].name


def test_each_class_is_held_out_in_part_and_more_images_move_none(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", count=40)
    splits = _opened(root, size=4, held_out=0.25)
    assert splits.held_out is not None
    held = read(splits.held_out, np.arange(len(splits.held_out)))
    counts = np.bincount(held["targets"])
    assert (counts >= 3).all() and (counts <= 20).all() and len(splits.train) + len(splits.held_out) == 80
    write_images(root, count=50)
    more = _opened(root, size=4, held_out=0.25).held_out
    assert more is not None
    after = {sample.numpy().tobytes() for sample in read(more, np.arange(len(more)))["inputs"]}
    assert {sample.numpy().tobytes() for sample in held["inputs"]} <= after


def test_corrupt_images_stop_or_are_told(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "2.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ModelwrightError, match="the image cannot be read") as caught:
        _opened(root)
    assert caught.value.where == str(root / "cat" / "1.png") and "corrupt: skip" in caught.value.remedy
    assert not list((tmp_path / "cache").glob("images-*"))
    told: list[Event] = []
    with listening(told.append):
        for _ in range(2):
            assert len(_opened(root, corrupt="skip").train) == 8
    skipped = [event for event in told if event.kind == "files-skipped"]
    assert [event.details["files"] for event in skipped] == [["cat/1.png", "dog/2.png"]] * 2


def test_a_folder_to_judge_by(tmp_path: Path) -> None:
    root, other = write_images(tmp_path / "images"), write_images(tmp_path / "other", count=2)
    splits = _opened(root, held_out=None, held_out_folder=str(other))
    assert splits.held_out is not None and (len(splits.train), len(splits.held_out)) == (10, 4)
    (other / "cat").rename(other / "cow")
    with pytest.raises(ModelwrightError, match="nothing is learnt of the class 'cow'"):
        _opened(root, held_out=None, held_out_folder=str(other))


def test_changed_images_are_made_anew_and_damage_is_found(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    data = ImageFolder(folder=str(root), size=4)
    folder = data.prepare(tmp_path / "cache")
    assert read_manifest(folder)["classes"] == ["cat", "dog"]
    Image.new("L", (4, 4)).save(root / "cat" / "0.png")
    assert data.prepare(tmp_path / "cache") != folder
    verify(folder)
    (folder / "train.inputs.bin").write_bytes(b"")
    with pytest.raises(ModelwrightError, match="damaged"):
        data.open(folder)


def test_copies_on_both_sides_are_told(tmp_path: Path) -> None:
    root, other = write_images(tmp_path / "images"), write_images(tmp_path / "other", count=2)
    Image.new("L", (4, 4)).save(other / "dog" / "1.png")
    told: list[Event] = []
    with listening(told.append):
        _opened(root, held_out=None, held_out_folder=str(other))
        _opened(root, held_out=0.3)
    assert [event.details["count"] for event in told if event.kind == "samples-shared"] == [3]


def test_other_files_are_told(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    (root / "cat" / "notes.txt").touch()
    Image.new("L", (2, 2)).save(root / "loose.png")
    told: list[Event] = []
    with listening(told.append):
        _opened(root)
    assert told[0].kind == "files-ignored" and told[0].details["files"] == ["cat/notes.txt", "loose.png"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"size": 0}, "size"),
        ({"threads": 0}, "threads"),
        ({"channels": 2}, "channels"),
        ({"resize": "zoom"}, "resize"),
        ({"corrupt": "ignore"}, "corrupt"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": 0.1, "held_out_folder": "x"}, "held_out"),
        ({"folder": "gone"}, "folder"),
        ({"folder": "src/modelwright/data"}, "folder"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        ImageFolder(**({"folder": "x"} | fields)).prepare(tmp_path)
    assert caught.value.where == where and caught.value.remedy
