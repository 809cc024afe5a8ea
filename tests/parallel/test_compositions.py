"""Layouts of which each alone is exact are exact together: losses, norms, scores and saved state of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.test_layouts import compared, judge
from tests.world import run_world

from modelwright.base.world import Mesh
from modelwright.parallel.pipeline.ties import TiedSums
from modelwright.parallel.sharding.exchange import ShardExchange

EXPERTS = {"experts": 4, "hidden": 8}
WHOLE = {"tied_embeddings": False}
TWICE = {"settings": {"shard": {"stage": 1}, "pipeline": {"schedule": "gpipe"}}, "micro_batch": 1, "optimizer": "sgd"}
ZERO_BUBBLE = {"settings": {"pipeline": {"schedule": "zbv-zero-bubble"}}}
DUALPIPE = {"settings": {"pipeline": {"schedule": "dualpipe-v"}}}
CASES: list[dict[str, Any]] = [
    {"layout": {"pipeline": 2, "shard": 2}},
    {"layout": {"pipeline": 2, "shard": 2}, **TWICE, "model": WHOLE},
    {"layout": {"pipeline": 2, "expert": 2}, "model": EXPERTS},
    {"layout": {"pipeline": 2, "expert": 2}, **ZERO_BUBBLE, "model": {"layers": 4, **EXPERTS}},
    {"layout": {"shard": 2, "expert": 2}, "model": EXPERTS},
    {"layout": {"pipeline": 2, "tensor": 2}, **ZERO_BUBBLE, "model": {"layers": 4}},
    {"layout": {"pipeline": 2, "context": 2}, **DUALPIPE, "model": {"layers": 4}},
    {"layout": {"shard": 2, "expert": 2}, "exchange": "ring", "model": EXPERTS | WHOLE},
    {"layout": {"replicate": 2, "shard": 2}, "exchange": "central"},
]
FAULTS = {
    "ties": (TiedSums, "_sum", lambda *arguments: None),
    "experts": (ShardExchange, "_sum", lambda *arguments: None),
}


def test_four_workers_train_like_one(tmp_path: Path) -> None:
    judge(CASES, 4, tmp_path)


def wrong(mesh: Mesh, folder: str, fault: str, case: dict[str, Any]) -> list[list[float]]:
    """Compared with one process after a mistake."""
    where, name, instead = FAULTS[fault]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, instead)
        return compared(mesh, folder, [case])


@pytest.mark.parametrize(
    ("fault", "case"),
    [("ties", CASES[0]), ("experts", CASES[4])],
)
def test_what_is_wrong_is_seen(fault: str, case: dict[str, Any], tmp_path: Path) -> None:
    here = "tests.parallel.test_compositions:wrong"
    ((distance, _),) = run_world(here, 4, folder=str(tmp_path), fault=fault, case=case)[0]
    assert distance > 1e-3
