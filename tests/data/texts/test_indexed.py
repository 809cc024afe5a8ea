from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.indexed import Indexed, token_type, write

DOCUMENTS = [[5, 6, 7], [], [1], [65_000, 2]]


def _write(prefix: Path, documents: list[list[int]] = DOCUMENTS, vocabulary: int = 65_499) -> None:
    write(prefix, (np.array(document, dtype=np.int64) for document in documents), vocabulary)


def test_files_are_megatrons_byte_for_byte(tmp_path: Path) -> None:
    """Written out by hand from the layout of Megatron-LM's indexed_dataset.py."""
    _write(tmp_path / "x")
    assert (tmp_path / "x.bin").read_bytes() == struct.pack("<6H", 5, 6, 7, 1, 65_000, 2)
    assert (tmp_path / "x.idx").read_bytes() == b"".join(
        [
            b"MMIDIDX\x00\x00",
            struct.pack("<Q", 1),
            struct.pack("<B", 8),
            struct.pack("<QQ", 4, 5),
            struct.pack("<4i", 3, 0, 1, 2),
            struct.pack("<4q", 0, 6, 6, 8),
            struct.pack("<5q", 0, 1, 2, 3, 4),
        ]
    )


@pytest.mark.parametrize(("vocabulary", "kind"), [(257, np.uint16), (65_499, np.uint16), (65_500, np.int32)])
def test_the_type_follows_the_vocabulary(vocabulary: int, kind: type, tmp_path: Path) -> None:
    assert token_type(vocabulary) == kind
    _write(tmp_path / "x", [[vocabulary - 1]], vocabulary)
    assert Indexed(tmp_path / "x").tokens.dtype == kind
    assert Indexed(tmp_path / "x").tokens.tolist() == [vocabulary - 1]


@given(documents=st.lists(st.lists(st.integers(0, 299), max_size=9), max_size=9))
def test_documents_come_back(documents: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    prefix = tmp_path_factory.mktemp("indexed") / "x"
    _write(prefix, documents, 300)
    indexed = Indexed(prefix)
    assert [indexed.document(number).tolist() for number in range(len(indexed))] == documents
    assert indexed.tokens.tolist() == [token for document in documents for token in document]


def test_documents_of_several_sequences_are_read(tmp_path: Path) -> None:
    """Megatron may cut a document into sentences."""
    (tmp_path / "x.bin").write_bytes(struct.pack("<5i", 1, 2, 3, 4, 5))
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 3, 3)
    index = struct.pack("<3i", 2, 1, 2) + struct.pack("<3q", 0, 8, 12) + struct.pack("<3q", 0, 2, 3)
    (tmp_path / "x.idx").write_bytes(header + index)
    indexed = Indexed(tmp_path / "x")
    assert [indexed.document(number).tolist() for number in range(2)] == [[1, 2, 3], [4, 5]]
    assert indexed.document_starts.tolist() == [0, 3]


def test_tokens_stay_on_disk(tmp_path: Path) -> None:
    _write(tmp_path / "x")
    assert isinstance(Indexed(tmp_path / "x").tokens, np.memmap)


def test_the_index_stays_on_disk(tmp_path: Path) -> None:
    _write(tmp_path / "x", [[1]] * 200_000, 10)
    tracemalloc.start()
    indexed = Indexed(tmp_path / "x")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000
    assert indexed.document(199_999).tolist() == [1]


@given(sizes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=8), length=st.integers(1, 7), data=st.data())
def test_beginnings_are_those_of_a_walk(
    sizes: list[list[int]], length: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Documents of several sequences, some of them empty, against the places that adding up their sizes gives."""
    prefix = tmp_path_factory.mktemp("indexed") / "x"
    total = _write_sentences(prefix, sizes)
    firsts = data.draw(st.lists(st.integers(0, total), max_size=5))
    begun, place = set(), 0
    for document in [*sizes, []]:
        begun.add(place)
        place += sum(document)
    pairs = list(zip(*Indexed(prefix).beginnings(np.array(firsts, dtype=np.int64), length), strict=True))
    assert pairs == sorted(pairs)
    expected = [(n, column) for n, first in enumerate(firsts) for column in range(length) if first + column in begun]
    assert sorted(set(pairs)) == expected


def _write_sentences(prefix: Path, sizes: list[list[int]]) -> int:
    """As Megatron does that cuts documents into sentences; by hand. Returns the number of tokens."""
    flat = [size for document in sizes for size in document]
    prefix.with_suffix(".bin").write_bytes(bytes(4 * sum(flat)))
    bounds = np.cumsum([0, *(len(document) for document in sizes)])
    pointers = 4 * (np.cumsum(flat, dtype=np.int64) - flat) if flat else np.array([], dtype=np.int64)
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, len(flat), len(bounds))
    index = np.array(flat, dtype="<i4").tobytes() + pointers.astype("<i8").tobytes() + bounds.astype("<i8").tobytes()
    prefix.with_suffix(".idx").write_bytes(header + index)
    return sum(flat)


def test_beginnings_are_found_without_a_table(tmp_path: Path) -> None:
    """np.searchsorted would do it in one call, and copy the index at each: it is not aligned in its file."""
    _write(tmp_path / "x", [[1]] * 200_000, 10)
    indexed = Indexed(tmp_path / "x")
    firsts = np.array([0, 77_777, 199_990])
    indexed.beginnings(firsts, 16)
    tracemalloc.start()
    ranges, _ = indexed.beginnings(firsts, 16)
    _, ours = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    np.searchsorted(np.asarray(indexed._pointers), firsts)
    _, theirs = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.bincount(ranges).tolist() == [16, 16, 11]
    assert ours < 50_000 < 1_600_000 <= theirs


@pytest.mark.parametrize("number", [-1, 4])
def test_documents_that_are_not_there(number: int, tmp_path: Path) -> None:
    _write(tmp_path / "x")
    with pytest.raises(IndexError):
        Indexed(tmp_path / "x").document(number)


def test_documents_are_streamed(tmp_path: Path) -> None:
    alive: list[int] = []

    def documents() -> Iterator[np.ndarray]:
        for number in range(3):
            alive.append(number)
            yield np.array([number])

    assert write(tmp_path / "x", documents(), 10) == (3, 3)
    assert alive == [0, 1, 2]


@pytest.mark.parametrize("token", [-1, 300])
def test_tokens_outside_of_the_vocabulary_are_refused(token: int, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="outside of the vocabulary of 300"):
        _write(tmp_path / "x", [[1], [token]], 300)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.bin", "x.idx"])
@pytest.mark.parametrize("damage", ["missing", "short", "long", "empty"])
def test_damage_is_named(name: str, damage: str, tmp_path: Path) -> None:
    _write(tmp_path / "x")
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"short": content[:-1], "long": content + b"0", "empty": b"", "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    with pytest.raises(ModelwrightError) as caught:
        Indexed(tmp_path / "x")
    assert caught.value.where == str(path)
    assert str(tmp_path) in caught.value.remedy


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "x")
    (tmp_path / "x.idx").write_bytes(b"something else " * 10)
    with pytest.raises(ModelwrightError, match="no Megatron index"):
        Indexed(tmp_path / "x")
