from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.tabular import npy, write_tar

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.manifest import verify
from modelwright.data.media.webdataset import WebDataset
from modelwright.data.tables.records import placed, records

ARRAYS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def _members(**changed: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number, row in enumerate(ARRAYS):
        members |= {f"s/{number:03}.npy": npy(row), f"s/{number:03}.cls": str(number % 4).encode()}
    return members | {name.replace("__", "/s").replace("_", "."): data for name, data in changed.items()}


def _open(tmp_path: Path, **fields: Any) -> Any:
    data = WebDataset(**({"files": (str(tmp_path / "*.tar"),), "inputs": ("npy",)} | fields))
    return data.open(data.prepare(tmp_path / "cache"))


def _png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_shards_of_the_webdataset_package_are_read_at_random(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as sink:
            for number in range(shard * 20, shard * 20 + 20):
                sink.write({"__key__": f"{number:03}", "npy": ARRAYS[number], "cls": number % 4})
    splits = _open(tmp_path, held_out=0.0)
    places = torch.randperm(40, generator=torch.Generator().manual_seed(0)).numpy()
    batch = read(splits.train, places)
    assert np.array_equal(batch["inputs"].numpy(), ARRAYS[places])
    assert np.array_equal(batch["targets"].numpy(), places % 4)
    assert splits.facts == {"features": 3, "classes": 4}


def test_our_shards_are_read_by_the_webdataset_package_alike(tmp_path: Path) -> None:
    """The same bytes, through the package's own grouping: names, keys with folders, endings of two parts."""
    theirs = pytest.importorskip("webdataset.tariterators")
    members = {"b/1.x.json": b'{"q": 1}', "b/1.txt": "é".encode(), "a/2.txt": b"two", "a/2.CLS": b"7"}
    write_tar(tmp_path / "t.tar", members)
    with (tmp_path / "t.tar").open("rb") as file:
        opened = [{"url": "t.tar", "stream": file}]
        reference = list(theirs.group_by_keys(theirs.tar_file_expander(opened)))
    mine = list(records(tmp_path / "t.tar"))
    assert [sample["__key__"] for sample in reference] == [row["__key__"] for row in mine] == ["b/1", "a/2"]
    keys = [{name for name in sample if not name.startswith("__")} for sample in reference]
    assert keys == [{"x.json", "txt"}, {"txt", "cls"}]
    assert mine == [{"__key__": "b/1", "q": 1, "txt": "é"}, {"__key__": "a/2", "txt": "two", "cls": 7}]
    assert [place for place, _ in placed(tmp_path / "t.tar")] == [f"{tmp_path}/t.tar:b/1", f"{tmp_path}/t.tar:a/2"]


def test_images_are_decoded_to_one_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(6)]
    members: dict[str, bytes] = {}
    for number, pixels in enumerate(images):
        members |= {f"{number}.png": _png(pixels), f"{number}.txt": ["dog", "cat"][number % 2].encode()}
    members |= {"6.jpg": _png(np.zeros((20, 10, 3), np.uint8)), "6.txt": b"cat"}
    write_tar(tmp_path / "t.tar", members)
    splits = _open(tmp_path, inputs=("jpg", "png"), targets="txt", size=8, held_out=0.0)
    batch = read(splits.train, np.arange(7))
    assert (batch["inputs"].dtype, tuple(batch["inputs"].shape)) == (torch.uint8, (7, 3, 8, 8))
    assert np.array_equal(batch["inputs"][:6].numpy(), np.stack(images).transpose(0, 3, 1, 2))
    assert batch["targets"].tolist() == [1, 0, 1, 0, 1, 0, 0]
    assert splits.facts == {"channels": 3, "image_size": 8, "classes": 2}


def test_json_and_numbers_may_be_learnt(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {f"{n}.{e}": json.dumps(v).encode() for n in range(5) for e, v in
                                   (("json", [n, n + 1]), ("y.json", n / 2))})  # fmt: skip
    splits = _open(tmp_path, inputs=("json",), targets="y.json", held_out=0.0)
    batch = read(splits.train, [3, 1])
    assert batch["inputs"].tolist() == [[3, 4], [1, 2]]
    assert batch["targets"].tolist() == [[1.5], [0.5]]
    assert splits.facts == {"classes": 1}


def test_the_split_is_by_key_and_loses_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", _members())
    splits = _open(tmp_path, held_out=0.25)
    parts = [read(part, np.arange(len(part)))["inputs"].numpy() for part in (splits.train, splits.held_out)]
    assert np.array_equal(np.unique(np.concatenate(parts), axis=0), np.unique(ARRAYS, axis=0))
    learnt = {row.tobytes() for row in parts[0]}
    write_tar(tmp_path / "t.tar", _members(z__new_npy=npy(ARRAYS[0] + 1), z__new_cls=b"1"))
    again = _open(tmp_path, held_out=0.25)
    more = {row.tobytes() for row in read(again.train, np.arange(len(again.train)))["inputs"].numpy()}
    assert learnt <= more, "a new sample moved others"
    assert _open(tmp_path, held_out=0.25, seed=1).train._rows.tolist() != again.train._rows.tolist()


def test_shards_may_be_held_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.npy": npy(ARRAYS[0]), "1.cls": b"0"})
    write_tar(tmp_path / "b.tar", {"1.npy": npy(ARRAYS[1]), "1.cls": b"1"})
    fields = {"files": (str(tmp_path / "a.tar"),), "held_out_files": (str(tmp_path / "b.tar"),)}
    splits = _open(tmp_path, **fields)
    assert np.array_equal(read(splits.held_out, [0])["inputs"].numpy(), ARRAYS[1:2])
    assert (len(splits.train), splits.facts["classes"]) == (1, 2)
    with pytest.raises(ModelwrightError, match="learnt from and judged by"):
        _open(tmp_path, files=(str(tmp_path / "*.tar"),), held_out_files=(str(tmp_path / "b.tar"),))


def test_a_changed_or_missing_shard_is_noticed(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", _members())
    data = WebDataset(files=(str(tmp_path / "t.tar"),), inputs=("npy",))
    folder = data.prepare(tmp_path / "cache")
    verify(folder)
    write_tar(tmp_path / "t.tar", _members() | {"more.npy": npy(ARRAYS[0]), "more.cls": b"0"})
    with pytest.raises(ModelwrightError, match="a shard changed since it was indexed"):
        data.open(folder)
    (tmp_path / "t.tar").unlink()
    with pytest.raises(ModelwrightError, match="a shard is gone"):
        data.open(folder)


BAD = [
    ({"s/007.npy": b"no array"}, {}, "a member is no npy", "t.tar:s/007.npy"),
    ({"s/007.npy": npy(np.zeros(4, np.float32))}, {}, r"\[3\] of float32 before, \[4\] of float32", "t.tar:s/007.npy"),
    ({"s/007.npy": npy(np.array(["x"]))}, {}, "no array of numbers", "t.tar:s/007.npy"),
    ({"s/007.cls": b"seven"}, {}, "a member is no cls: invalid literal", "t.tar:s/007.cls"),
    ({"s/007.cls": b"-1"}, {}, "a target is -1", "targets"),
    ({"t/1.npy": npy(ARRAYS[0])}, {}, "'t/1' has no member cls", "t.tar:t/1"),
    ({}, {"inputs": ("png", "json")}, "several kinds", "inputs"),
    ({}, {"inputs": ("json",)}, "'s/000' has no member json", "t.tar:s/000"),
    ({}, {"inputs": ("txt",)}, "'txt' is no ending of inputs", "inputs"),
    ({}, {"inputs": (".npy",)}, "'.npy' is no ending of inputs", "inputs"),
    ({}, {"targets": "png"}, "'png' is no ending of targets", "targets"),
    ({}, {"inputs": ()}, "no inputs are named", "inputs"),
    ({}, {"held_out": 1.0}, "held_out is 1.0", "held_out"),
]


@pytest.mark.parametrize(("changed", "fields", "what", "where"), BAD)
def test_bad_members_and_settings_are_named(
    changed: dict[str, bytes], fields: dict[str, Any], what: str, where: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "t.tar", _members() | changed)
    with pytest.raises(ModelwrightError, match=what) as caught:
        _open(tmp_path, **fields)
    assert caught.value.where.endswith(where)
    assert caught.value.remedy or "held_out" in what


def test_objects_in_arrays_are_never_loaded(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    write_tar(tmp_path / "t.tar", {"1.npy": file.getvalue(), "1.cls": b"0"})
    with pytest.raises(ModelwrightError, match="allow_pickle=False"):
        _open(tmp_path)


def test_a_corrupt_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    members = {"a.png": _png(np.zeros((9, 9), np.uint8)), "a.cls": b"0", "b.png": b"\x89PNG junk", "b.cls": b"1"}
    write_tar(tmp_path / "t.tar", members)
    splits = _open(tmp_path, inputs=("png",), size=4, held_out=0.0)
    with pytest.raises(ModelwrightError, match="a member is no png") as caught:
        read(splits.train, [0, 1])
    assert caught.value.where == f"{tmp_path / 't.tar'}:b.png"


def test_every_kind_of_damage_to_a_shard_is_found(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", _members())
    whole = path.read_bytes()
    with tarfile.open(path) as shard:
        last = shard.getmembers()[-1]
    damage = {
        "in data": whole[: last.offset_data + 1],
        "in a header": whole[: last.offset + 100],
        "a header altered": whole[: last.offset] + b"junk" + whole[last.offset + 4 :],
        "packed": gzip.compress(whole),
        "no tar": b"junk" * 1000,
        "empty": b"",
        "two tars in one file": whole + whole,
    }
    for name, damaged in damage.items():
        path.write_bytes(damaged)
        with pytest.raises(ModelwrightError, match="cannot be read") as caught:
            _open(tmp_path)
        assert caught.value.where == str(path), name


def test_a_sample_with_two_members_of_one_kind_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as shard:
        for _ in range(2):
            shard.addfile(tarfile.TarInfo("1.cls"), io.BytesIO())
    with pytest.raises(ModelwrightError, match="'1' has two members 'cls'"):
        _open(tmp_path)
