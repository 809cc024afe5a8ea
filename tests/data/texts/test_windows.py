from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.indexed import Indexed, write
from modelwright.data.texts.windows import TokenWindows


def _indexed(folder: Path, tokens: list[int]) -> Indexed:
    write(folder / "x", [np.array(tokens, dtype=np.int64)], 10_000)
    return Indexed(folder / "x")


def _all(windows: TokenWindows) -> dict[str, torch.Tensor]:
    return windows.__getitems__(np.arange(len(windows)))


def test_training_windows_stand_side_by_side(tmp_path: Path) -> None:
    batch = _all(TokenWindows(_indexed(tmp_path, list(range(10))), 3))
    assert batch["inputs"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert batch["targets"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_training_drops_the_tail(tmp_path: Path) -> None:
    assert len(TokenWindows(_indexed(tmp_path, list(range(9))), 3)) == 2


def test_overlapping_windows_score_only_what_is_new(tmp_path: Path) -> None:
    batch = _all(TokenWindows(_indexed(tmp_path, list(range(8))), 4, stride=2))
    assert batch["inputs"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert batch["targets"].tolist() == [[1, 2, 3, 4], [-100, -100, 5, 6], [-100, -100, 7, -100]]


@given(data=st.data(), length=st.integers(2, 120), context=st.integers(1, 40))
def test_every_token_is_scored_once(
    data: st.DataObject, length: int, context: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stride = data.draw(st.integers(1, context))
    tokens = list(range(1000, 1000 + length))
    sizes = np.arange(10_000) % 7
    indexed = _indexed(tmp_path_factory.mktemp("windows"), tokens)
    batch = _all(TokenWindows(indexed, context, stride, sizes))
    scored = batch["targets"] != -100
    assert batch["targets"][scored].tolist() == tokens[1:]
    # the input beside a target is the token before it
    assert (batch["inputs"][scored] + 1 == batch["targets"][scored]).all()
    assert scored.any(dim=1).all()
    assert batch["bytes"].tolist() == [sum(sizes[row[row != -100]]) for row in batch["targets"].numpy()]
    # text before a target: all there is, or context - stride tokens at least
    places = scored.nonzero()[:, 1] + 1
    expected = np.minimum(np.arange(1, length), context - stride + 1)
    assert (places.numpy() >= expected).all()


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    context=st.integers(1, 20),
    data=st.data(),
)
def test_documents_in_windows_are_those_of_a_walk_over_the_tokens(
    sizes: list[int], context: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stride = data.draw(st.none() | st.integers(1, context))
    assume(sum(sizes) > (context if stride is None else 1))
    folder = tmp_path_factory.mktemp("windows")
    documents = (np.array([END, *range(100 * n, 100 * n + size - 1)]) for n, size in enumerate(sizes))
    write(folder / "x", documents, 10_000)
    indexed = Indexed(folder / "x")
    lengths = np.arange(10_000) % 7 * (np.arange(10_000) != END)
    joined, separate = (TokenWindows(indexed, context, stride, lengths, kind) for kind in ("joined", "separate"))
    order = data.draw(st.permutations(range(len(joined))))
    batch, plain = separate.__getitems__(order), joined.__getitems__(order)
    assert len(separate) == len(joined)
    assert set(plain) == {"inputs", "targets", "bytes"}
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    expected = [walked(indexed.tokens.tolist(), window * (stride or context), context) for window in order]
    assert [list(map(list, zip(*row, strict=True))) for row in expected] == [
        [segments, positions]
        for segments, positions in zip(batch["segments"].tolist(), batch["positions"].tolist(), strict=True)
    ]
    assert {batch[name].dtype for name in ("segments", "positions")} == {torch.int64}
    # every target once, each from its own document: what follows an end of text is predicted from that alone
    scored = separate.__getitems__(range(len(separate)))
    targets = scored["targets"][scored["targets"] != -100].tolist()
    assert targets == indexed.tokens[1 : len(targets) + 1].tolist()
    assert len(targets) == (len(indexed.tokens) - 1 if stride else len(separate) * context)
    assert (scored["positions"][scored["inputs"] == END] == 0)[scored["targets"][scored["inputs"] == END] != -100].all()


END = 9_999


def walked(tokens: list[int], first: int, context: int) -> list[tuple[int, int]]:
    """Segment and position of each input, token by token; behind the end begins a segment of its own."""
    places, segment, position = [], 0, -1
    for place in range(first, first + context):
        begins = place == len(tokens) or (place < len(tokens) and tokens[place] == END)
        segment, position = (segment + 1, 0) if begins and place > first else (segment, position + 1)
        places.append((segment, position))
    return places


def test_separate_documents_by_example(tmp_path: Path) -> None:
    write(tmp_path / "x", map(np.array, [[9, 1, 2], [9, 3], [9, 4, 5, 6]]), 10)
    batch = _all(TokenWindows(Indexed(tmp_path / "x"), 4, documents="separate"))
    assert batch["inputs"].tolist() == [[9, 1, 2, 9], [3, 9, 4, 5]]
    assert batch["targets"].tolist() == [[1, 2, 9, 3], [9, 4, 5, 6]]
    assert batch["segments"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]


def test_another_wish_about_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="joined or separate, not 'apart'"):
        TokenWindows(_indexed(tmp_path, list(range(9))), 2, documents="apart")  # type: ignore[arg-type]


def test_batches_are_their_own(tmp_path: Path) -> None:
    windows = TokenWindows(_indexed(tmp_path, list(range(10))), 3)
    batch = _all(windows)
    batch["inputs"].zero_()
    assert batch["targets"].tolist()[0] == [1, 2, 3]
    assert _all(windows)["inputs"].tolist()[0] == [0, 1, 2]


def test_a_context_longer_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="context of 16 tokens is longer than the data of 16 tokens"):
        TokenWindows(_indexed(tmp_path, list(range(16))), 16)
    assert len(TokenWindows(_indexed(tmp_path, list(range(17))), 16)) == 1


def test_short_held_out_data_is_padded(tmp_path: Path) -> None:
    batch = _all(TokenWindows(_indexed(tmp_path, [4, 5, 6]), 5, stride=5))
    assert batch["targets"].tolist() == [[5, 6, -100, -100, -100]]


@pytest.mark.parametrize("tokens", [[], [1]])
def test_data_without_a_target_is_refused(tokens: list[int], tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="longer than the data"):
        TokenWindows(_indexed(tmp_path, tokens), 4, stride=2)


@pytest.mark.parametrize(("context", "stride"), [(0, None), (4, 5), (4, 0)])
def test_windows_that_leave_tokens_out_are_refused(context: int, stride: int | None, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="leave tokens out"):
        TokenWindows(_indexed(tmp_path, list(range(9))), context, stride)
