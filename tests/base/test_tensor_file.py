"""Files of tensors are those of the safetensors package, and are hashed while they are written and read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.tensor_file import CHUNK, read_tensors, write_tensors

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8,
    torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.int16, torch.complex64,
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6)


def made(kinds: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randint(0, 2, shape, generator=generator).to(dtype) for name, (dtype, shape) in kinds.items()}


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and save({"t": one[name]}) == save({"t": other[name]})
        for name in one
    )


@settings(max_examples=60, deadline=None)
@given(TENSORS.filter(lambda kinds: "__metadata__" not in kinds))
def test_the_bytes_are_those_of_the_package(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[torch.dtype, list[int]]]
) -> None:
    path, tensors = tmp_path_factory.mktemp("files") / "t.safetensors", made(kinds)
    told = write_tensors(tensors, path)
    content = path.read_bytes()
    assert content == save(tensors)
    assert told == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    read, digest = read_tensors(path)
    assert digest == told["sha256"]
    assert alike(read, tensors)


def test_large_and_strided_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    large = torch.arange(CHUNK // 2 + 7, dtype=torch.float32)
    strided = torch.arange(24.0).view(4, 6).t()[::2]
    told = write_tensors({"large": large, "strided": strided, "same": large}, path)
    read, digest = read_tensors(path)
    assert digest == told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for found in (read, load_file(path)):
        assert torch.equal(found["large"], large)
        assert torch.equal(found["same"], large)
        assert torch.equal(found["strided"], strided)
    assert read["large"].data_ptr() != read["same"].data_ptr()


def spoiled(content: bytes, how: str) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if how == "short":
        return content[:-1]
    if how == "long":
        return content + b"x"
    if how == "header too long":
        return (2**40).to_bytes(8, "little") + content[8:]
    if how == "no json":
        return content[:8] + b"{" * length + content[8 + length :]
    if how == "empty":
        return b""
    header["a"]["shape"] = [2**50]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize("how", ["short", "long", "header too long", "no json", "empty", "shape"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(spoiled(save({"a": torch.ones(3), "b": torch.zeros(2)}), how))
    with pytest.raises(ModelwrightError, match="cannot read the tensors") as caught:
        read_tensors(path)
    assert caught.value.where == str(path)


def test_files_of_the_package_are_read(tmp_path: Path) -> None:
    """With metadata, as others write them."""
    path = tmp_path / "t.safetensors"
    path.write_bytes(save({"a": torch.ones(3)}, metadata={"format": "pt"}))
    assert torch.equal(read_tensors(path)[0]["a"], torch.ones(3))


def test_a_type_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="complex128") as caught:
        write_tensors({"odd": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "t.safetensors")
    assert caught.value.where == "odd"


def test_metadata_is_read_by_the_package_and_written_in_one_order(tmp_path: Path) -> None:
    facts = {"tied": "{}", "format": "1", "a": "b"}
    for number, names in enumerate((sorted(facts), sorted(facts, reverse=True))):
        write_tensors({"t": torch.arange(3)}, tmp_path / f"{number}", {name: facts[name] for name in names})
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata() == facts
        assert torch.equal(file.get_tensor("t"), torch.arange(3))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    write_tensors({"t": torch.arange(3)}, tmp_path / "one", {"format": "pt"})
    assert (tmp_path / "one").read_bytes() == save({"t": torch.arange(3)}, metadata={"format": "pt"})
    assert alike(read_tensors(tmp_path / "0")[0], {"t": torch.arange(3)})
