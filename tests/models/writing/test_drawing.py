"""What may be drawn, against the textbook, one row and one token at a time."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.models.writing.drawing import Sampling, candidates, draw, penalised, seed_of


def textbook(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Token -> probability, by sorting a list."""
    heights = [math.exp((value - max(logits)) / sampling.temperature) for value in logits]
    ranked = sorted(range(len(logits)), key=lambda token: -heights[token])[: sampling.top_k]
    total = sum(heights[token] for token in ranked)
    chosen, mass = [], 0.0
    for token in ranked:
        if sampling.top_p is not None and mass >= sampling.top_p:
            break
        chosen.append(token)
        mass += heights[token] / total
    least = (sampling.min_p or 0.0) * heights[ranked[0]]
    chosen = [token for token in chosen if heights[token] >= least]
    total = sum(heights[token] for token in chosen)
    return {token: heights[token] / total for token in chosen}


def ours(logits: list[float], sampling: Sampling) -> dict[int, float]:
    shares, tokens = candidates(torch.tensor([logits], dtype=torch.float64), sampling)
    return {token: share for token, share in zip(tokens[0].tolist(), shares[0].tolist(), strict=True) if share > 0}


def agree(first: dict[int, float], second: dict[int, float]) -> bool:
    return first.keys() == second.keys() and all(
        math.isclose(first[token], second[token], rel_tol=1e-12) for token in first
    )


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True),
    temperature=st.floats(0.2, 3),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 0.9),
)
def test_candidates_are_those_of_the_textbook(
    values: list[int], temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    logits = [value / 7 for value in values]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert agree(ours(logits, sampling), textbook(logits, sampling))


def test_the_sets_of_a_known_distribution() -> None:
    logits = [math.log(share) for share in (0.07, 0.4, 0.03, 0.2, 0.3)]

    def kept(**options: float | int) -> set[int]:
        return set(ours(logits, Sampling(temperature=1.0, **options)))  # type: ignore[arg-type]

    assert kept(top_k=2) == {1, 4}
    assert kept(top_p=0.69) == {1, 4}
    assert kept(top_p=0.71) == {1, 4, 3}  # the negative control: a hair more takes one more
    assert kept(top_p=1e-9) == {1}
    assert kept(min_p=0.5) == {1, 4, 3}
    assert kept(min_p=0.6) == {1, 4}
    assert kept(top_k=3, top_p=0.8) == {1, 4, 3}  # of what top_k left: 0.44 + 0.33 are not enough
    assert kept(top_p=0.8) == {1, 4, 3}
    assert kept(top_p=1.0) == {0, 1, 2, 3, 4}


def test_draws_follow_the_shares_and_never_leave_them() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.1, 0.15, 0.25]])).expand(4000, 4)
    sampling = Sampling(temperature=1.0, top_p=0.85)
    generators = [torch.Generator().manual_seed(seed_of(3, row)) for row in range(4000)]
    drawn = Counter(draw(logits, sampling, generators))
    assert set(drawn) == {0, 3, 2}
    for token, share in {0: 0.5 / 0.9, 3: 0.25 / 0.9, 2: 0.15 / 0.9}.items():
        assert drawn[token] / 4000 == pytest.approx(share, abs=0.03)


def test_repetition_is_penalised_as_in_the_paper() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    expected = torch.tensor([[1.0, -4.0, 1.0], [2.0, -2.0, 0.5]])
    assert torch.equal(penalised(logits, [[0, 1, 1], [2]], 2.0), expected)
    assert torch.equal(logits[0], torch.tensor([2.0, -2.0, 1.0]))
    assert penalised(logits, [[0], [0]], 1.0) is logits


def test_seeds_of_texts_differ_and_the_first_is_the_seed() -> None:
    assert seed_of(5, 0) == 5
    assert len({seed_of(seed, text) for seed in range(20) for text in range(20)}) == 400


def test_logits_that_are_no_numbers_are_told() -> None:
    with pytest.raises(ModelwrightError, match="no numbers"):
        draw(torch.tensor([[0.0, math.nan]]), Sampling(temperature=0.0), [torch.Generator()])


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits: Tensor = torch.tensor([[0.0, -math.inf, 0.0]]).expand(300, 3)
    generators = [torch.Generator().manual_seed(row) for row in range(300)]
    assert set(draw(logits, Sampling(temperature=1.0), generators)) == {0, 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", -1),
        ("temperature", -0.1),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
    ],
)
def test_wrong_settings_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ModelwrightError, match=f"{field} is .*, not {value}") as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert caught.value.where == field
