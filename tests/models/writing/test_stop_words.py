from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.models.writing.stop_words import StopWords

letters = st.lists(st.sampled_from(b"ab"), max_size=12).map(bytes)


def textbook(text: bytes, words: list[bytes]) -> tuple[bytes, bool]:
    """Byte by byte: as soon as the text ends in a word, what stands before the longest such word."""
    for end in range(1, len(text) + 1):
        ended = [word for word in words if text[:end].endswith(word)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


def pieces_of(text: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[begin:end] for begin, end in pairwise(places)]


@given(text=letters, words=st.lists(letters.filter(bool), max_size=3), cuts=st.lists(st.integers(0, 12), max_size=6))
def test_any_cutting_gives_what_the_whole_text_gives(text: bytes, words: list[bytes], cuts: list[int]) -> None:
    stop = StopWords(words)
    said = b""
    expected, found = textbook(text, words)
    for piece in pieces_of(text, cuts):
        said += stop.push(piece)
        assert expected.startswith(said)  # nothing was let through that must not be
    assert (said + stop.rest(), stop.found) == (expected, found)


def test_no_more_is_held_back_than_may_begin_a_word() -> None:
    stop = StopWords([b"\n\n", b"END"])
    assert stop.push(b"one\n") == b"one"
    assert stop.push(b"two E") == b"\ntwo "
    assert stop.push(b"N") == b""
    assert stop.push(b"D, and more") == b""
    assert stop.found
    assert stop.push(b"more") == stop.rest() == b""


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="stop word is empty"):
        StopWords([b"a", b""])
