"""Whole trainings in fp8 with emulated units: in other layouts the same as in one process, of equal micro-batches.

Scales are of the tensors of a micro-batch, so that trainings in other micro-batches differ: by 0.1 and more here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.layouts import outcome
from tests.training.small import alone
from tests.world import run_world

from modelwright.base.world import Mesh, arranged
from modelwright.parallel.precisions.fp8 import Fp8

HERE = "tests.training.test_fp8"
CASE: dict[str, Any] = {"dtype": "float32", "precision": "fp8", "optimizer": "sgd", "average": True}
SIZES = {"width": 32, "hidden": 64, "vocabulary": 32}
EXPERTS = {"width": 32, "experts": 4, "hidden": 16, "experts_per_token": 4, "vocabulary": 32}
LAYOUTS: list[dict[str, Any]] = [
    {"layout": {"replicate": 2}},
    {"layout": {"shard": 2}},
    {"layout": {"shard": 2}, "settings": {"shard": {"stage": 1}}, "recompute": "full"},
    {"layout": {"pipeline": 2}},
    {"layout": {"expert": 2}, "model": EXPERTS},
]
ROUNDED = 2**-4  # the last place of e4m3, where sums in bfloat16 are taken in another order: of experts' rows


def distances(mesh: Mesh, folder: str, cases: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """How far each is from one process in fp8, and from one in bf16."""
    Fp8.__init__.__kwdefaults__["emulated"] = True  # in this process of its own
    found = []
    for number, case in enumerate(cases):
        place = Path(folder) / str(number)
        divided = outcome(arranged(mesh, case["layout"]), place / "divided", **case)
        if mesh.rank == 0:
            one = {name: value for name, value in case.items() if name not in ("layout", "settings", "recompute")}
            same = outcome(alone(), place / "one", **one)
            other = outcome(alone(), place / "other", **one | {"precision": "bf16"})
            found.append((divided.distance(same), divided.distance(other)))
    return found


def test_layouts_round_as_one_process_does(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    cases = [CASE | {"model": SIZES} | layout for layout in LAYOUTS]
    found = run_world(f"{HERE}:distances", 2, folder=str(tmp_path), cases=cases)[0]
    for case, (same, other) in zip(cases, found, strict=True):
        assert same < (ROUNDED if "expert" in case["layout"] else 1e-6), case
        assert other > 0.08, case
