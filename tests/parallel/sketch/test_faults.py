"""Sketches that are wrong are seen to be, and what cannot be laid out is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.parallel.sketch.steps import Case, counted, differences, foretold
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.parallel.sketch import Sketch

HERE = "tests.parallel.sketch.test_faults"
SPREAD = {"experts": 4, "experts_per_token": 2, "hidden": 8}
WRONG: list[tuple[Case, dict[str, Any], str]] = [
    ({"layout": {"replicate": 2}}, {"layout": {"replicate": 4}}, "all-reduce replicate"),
    ({"layout": {"replicate": 2}, "exchange": "ring"}, {"exchange": "all-reduce"}, "send replicate"),
    ({"layout": {"replicate": 2}, "exchange": {"use": "ring", "compression": "bf16"}}, {"exchange": "ring"}, "send"),
    ({"layout": {"context": 2}, "model": "full"}, {"model": "gpt"}, "send context"),
    ({"layout": {"context": 2}}, {"model": "full"}, "send context"),
    ({"layout": {"context": 2}}, {"settings": {"context": {"balanced": True}}}, "send context"),
    ({"layout": {"tensor": 2}}, {"micro_batch": 4}, "all-reduce tensor"),
    ({"layout": {"shard": 2}}, {"settings": {"shard": {"stage": 2}}}, "all-gather shard"),
    ({"layout": {"pipeline": 2}}, {"fields": {"tied_embeddings": False}}, "send pipeline"),
    ({"layout": {"pipeline": 2}}, {"fields": {"layers": 3}}, "kept"),
]


def test_a_wrong_sketch_is_told_from_a_right_one() -> None:
    told = run_world("tests.parallel.sketch.steps:counted", cases=[right for right, _, _ in WRONG], timeout=120)
    for number, (case, changes, kind) in enumerate(WRONG):
        ranks = [rank[number] for rank in told]
        assert not differences(case, ranks, foretold(case)), case
        assert any(kind in each for each in differences(case, ranks, foretold(case, **changes))), (case, changes)
        for dropped in foretold(case).by_rank:
            assert differences(case, ranks, without(foretold(case), dropped)), (case, dropped)


def without(found: Sketch, kind: str) -> Sketch:
    return replace(found, by_rank={key: sizes for key, sizes in found.by_rank.items() if key != kind})


def routed(mesh: Mesh, case: Case) -> dict[str, float]:
    return counted(mesh, [case])[0]["sent"]


def test_tokens_are_expected_to_choose_all_experts_equally_often() -> None:
    case: Case = {"layout": {"expert": 2}, "fields": SPREAD}
    told, expected = run_world(f"{HERE}:routed", layout={"expert": 2}, case=case), foretold(case).sent
    sent = {kind: sum(rank[kind] for rank in told) / 2 for kind in told[0]}
    assert sent["all-to-all expert"] == pytest.approx(expected.pop("all-to-all expert"), rel=0.2)
    assert {kind: sent[kind] for kind in expected} == expected


def test_ranks_that_differ_are_told_apart() -> None:
    found = foretold({"layout": {"pipeline": 2, "replicate": 2}})
    assert found.parameters.shape == (2, 2)
    assert found.fullest == found.parameters.max() > found.parameters.mean()
    ring = foretold({"layout": {"context": 4}})
    sizes = ring.by_rank["send context"]
    assert ring.total == pytest.approx(sizes.mean() + ring.sent["all-reduce context"])
    assert ring.most == pytest.approx(sizes.max() + ring.sent["all-reduce context"])
    assert ring.most > ring.total


def test_one_rank_sends_nothing() -> None:
    found = foretold({"layout": {"replicate": 1, "tensor": 1}})
    assert found.total == found.most == 0
    assert found.fullest == np.sum(found.parameters) == 34_624


def test_what_is_gathered_depends_on_settings() -> None:
    one, three = (foretold({"layout": {"shard": 2}, "settings": {"shard": {"stage": stage}}}) for stage in (1, 3))
    assert one.total < three.total
    assert one.gathered > three.gathered > 0
    assert foretold({"layout": {"shard": 4}}).fullest < one.fullest == three.fullest


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"layout": {"expert": 2}}, "has no experts to spread"),
        ({"layout": {"expert": 4}, "fields": {**SPREAD, "experts": 6}}, "6 experts"),
        ({"layout": {"pipeline": 4}}, "2 repeated blocks, too few for 4"),
        ({"layout": {"pipeline": 2}, "micro_batch": 8}, "needs at least 2 micro-batches"),
        ({"layout": {"context": 3}}, "3 ranks cannot share evenly"),
        ({"layout": {"shard": 2}, "exchange": {"use": "ring", "compression": "bf16"}}, "the layout shard divides it"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(case: Case, words: str) -> None:
    with pytest.raises(ModelwrightError, match=words) as caught:
        foretold(case)
    assert caught.value.where and caught.value.remedy
