"""The memory of a snapshot is foretold: measured with steps alone, it is there when a run saves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tests.training.small import FEATURES, network, points, prepare, stepping
from tests.world import run_world
from torch import nn

from modelwright.base.world import Mesh
from modelwright.optim.adamw import AdamW
from modelwright.optim.averages.ema import Ema
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.training.checkpoints.snapshot import Snapshot, snapshot_bytes
from modelwright.training.measure import measure, peak_bytes
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Saving

HERE = "tests.training.checkpoints.test_snapshot_memory"
WIDTH, MEGABYTE = 800, 2**20


def wide(mesh: Mesh) -> Prepared:
    """15 MB of weights, and twice as much of moments."""
    layers = [nn.Linear(FEATURES, WIDTH), *(nn.Linear(WIDTH, WIDTH) for _ in range(3)), nn.Linear(WIDTH, 4)]
    model = nn.Sequential(*layers).double()
    return prepare(points(), mesh, model=model, optimizer=AdamW(), saving=Saving(every=1, keep=1), total=3)


def measured(mesh: Mesh) -> dict[str, Any]:
    return asdict(measure(wide(mesh), seconds=0.0))


def saving(mesh: Mesh, folder: str) -> int:
    list(wide(mesh).run(Path(folder), lambda: False))
    return peak_bytes(torch.device("cpu"))


def test_what_is_foretold_is_what_a_run_that_saves_takes(tmp_path: Path) -> None:
    (found,), (taken,) = run_world(f"{HERE}:measured", 1), run_world(f"{HERE}:saving", 1, folder=str(tmp_path))
    alone, snapshot = found["peak_bytes"], found["snapshot_bytes"]
    state = 3 * 8 * sum(parameter.numel() for parameter in wide_parameters())
    assert abs(snapshot - state) < MEGABYTE
    gradients = state / 3  # their memory is free when the snapshot is taken
    assert alone + snapshot - gradients - 16 * MEGABYTE < taken < alone + snapshot + 16 * MEGABYTE
    assert taken - alone > 20 * MEGABYTE  # without it, too little would be foretold


def wide_parameters() -> list[torch.Tensor]:
    sizes = [(WIDTH, FEATURES), *[(WIDTH, WIDTH)] * 3, (4, WIDTH)]
    return [torch.empty(size, device="meta") for rows, columns in sizes for size in ((rows, columns), (rows,))]


def test_it_is_what_is_copied() -> None:
    first = nn.Linear(FEATURES, FEATURES).double()
    tied = nn.Sequential(first, nn.Tanh(), nn.Linear(FEATURES, FEATURES).double(), network())
    tied[2].weight = first.weight
    for fields in ({"averaging": Ema(decay=0.9)}, {"optimizer": ScheduleFree()}, {"model": tied}):
        prepared = prepare(points(), total=2, **fields)
        list(stepping(prepared))
        contents = Snapshot().take(prepared.state, prepared.weights)
        copies = {tensor.data_ptr(): tensor.nbytes for file in contents.files.values() for tensor in file.values()}
        assert snapshot_bytes(prepared.state, prepared.weights) == sum(copies.values())
