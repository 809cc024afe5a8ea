"""Compressors as yardsticks, against the compressors themselves."""

from __future__ import annotations

import gzip
import lzma
import math
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.app.compressors import bits_per_byte
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening

TEXTS = [("a", b"to be or not to be " * 40), ("b", Path(__file__).read_bytes()), ("c", b"")]


def test_documents_are_compressed_one_by_one() -> None:
    total = sum(len(text) for _, text in TEXTS)
    found = bits_per_byte(TEXTS)
    assert found["gzip -9"] == 8 * sum(len(gzip.compress(text, 9)) for _, text in TEXTS) / total
    assert (
        found["lzma -9e"]
        == 8 * sum(len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for _, text in TEXTS) / total
    )
    together = 8 * len(gzip.compress(b"".join(text for _, text in TEXTS), 9)) / total
    assert found["gzip -9"] > together  # the control: another way to count gives another number


@pytest.mark.skipif(not (shutil.which("gzip") and shutil.which("xz")), reason="the commands are not installed")
def test_the_commands_agree() -> None:
    text = Path(__file__).read_bytes()
    found = bits_per_byte([("", text)])
    for name, command in (("gzip -9", ["gzip", "-9nc"]), ("lzma -9e", ["xz", "-9ec"])):
        size = len(subprocess.run(command, input=text, capture_output=True, check=True).stdout)
        assert found[name] == pytest.approx(8 * size / len(text), rel=0.02)


@pytest.mark.parametrize("symbols", [1, 2, 256])
def test_the_frequency_of_equally_frequent_bytes(symbols: int) -> None:
    text = bytes(range(symbols)) * 10
    assert bits_per_byte([("", text)])["byte frequency"] == pytest.approx(math.log2(symbols), abs=1e-12)


def test_noise_cannot_be_compressed() -> None:
    found = bits_per_byte([("", random.Random(0).randbytes(50_000))])
    assert 7.98 < found["byte frequency"] < 8 < found["gzip -9"] < 8.1
    assert 8 < found["lzma -9e"] < 8.1


@settings(max_examples=8, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6).filter(any))
def test_the_frequency_does_not_depend_on_the_split(parts: list[bytes]) -> None:
    split = bits_per_byte([("", part) for part in parts])["byte frequency"]
    assert split == pytest.approx(bits_per_byte([("", b"".join(parts))])["byte frequency"], abs=1e-9)
    assert 0 <= split <= 8


def test_documents_are_read_one_at_a_time_and_only_so_far() -> None:
    asked = []

    def documents() -> Iterator[tuple[str, bytes]]:
        for name, content in [*TEXTS, ("d", b"never compressed")]:
            asked.append(name)
            yield name, content

    told: list[Event] = []
    most = len(TEXTS[0][1]) + 100
    with listening(told.append):
        found = bits_per_byte(documents(), most)
    assert asked == ["a", "b"]
    assert [event.kind for event in told] == ["documents-cut"]
    assert found == bits_per_byte([TEXTS[0], ("b", TEXTS[1][1][:100])])
    with listening(told.append):
        assert bits_per_byte(TEXTS, sum(len(text) for _, text in TEXTS)) == bits_per_byte(TEXTS)
    assert len(told) == 1  # all of them is not too many


@pytest.mark.parametrize("documents", [[], [("a", b"")]])
def test_nothing_to_compress(documents: list[tuple[str, bytes]]) -> None:
    with pytest.raises(ModelwrightError, match="held-out documents are empty") as caught:
        bits_per_byte(documents)
    assert "hold out a larger part" in caught.value.remedy
