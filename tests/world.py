"""Functions that run in a world of several gloo ranks, forked from one process that imported torch once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from modelwright.base.choice import import_path
from modelwright.base.world import world
from modelwright.launch import Placement, Warm, raise_failure, start

PRELOAD = (
    "torch",
    "torch.distributed.tensor",
    "numpy",
    "pytest",
    "modelwright.base.world",
    "modelwright.training.training",
    "torch._dynamo",
    *(f"modelwright.parallel.layouts.{axis}" for axis in ("shard", "pipeline", "tensor", "context", "expert")),
    "modelwright.training.prepared",
)

_warm: list[Warm] = []


def warm() -> Warm:
    """The warm parent of this test session, made at its first use."""
    if not _warm:
        _warm.append(Warm(PRELOAD))
    return _warm[0]


def close() -> None:
    """End the warm parent; the session's fixture calls it."""
    while _warm:
        _warm.pop().close()


def run_world(
    function: str,
    workers: int = 2,
    *,
    layout: dict[str, int] | None = None,
    timeout: float = 60.0,
    **arguments: Any,
) -> list[Any]:
    """Call ``function(mesh, **arguments)`` on every rank of a CPU world; its JSON-able results by rank.

    Args:
        function: ``tests.package.module:function``.
        workers: how many ranks, of one thread each.
        layout: sizes of the mesh axes.
        timeout: seconds until the test fails.
        arguments: JSON-able.

    Raises:
        RunFailed: a rank failed; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="world-") as folder:
        call = json.dumps({"function": function, "layout": layout, "arguments": arguments})
        placement = Placement(workers=workers, threads=1, start="fork")
        with start("tests.world:rank_main", [folder, call], placement, logs=Path(folder), warm=warm()) as job:
            status = job.wait(timeout)
        if status.failure:
            raise_failure(status.failure)
        assert status.state == "finished", f"{function} was still {status.state} after {timeout} s"
        return [json.loads(_result(Path(folder), rank).read_text()) for rank in range(workers)]


def rank_main(arguments: list[str]) -> None:
    folder, call = Path(arguments[0]), json.loads(arguments[1])
    function = import_path(call["function"])
    with world(call["layout"], device="cpu", timeout=60, joining=30) as mesh:
        result = function(mesh, **call["arguments"])
    _result(folder, mesh.rank).write_text(json.dumps(result))


def _result(folder: Path, rank: int) -> Path:
    return folder / f"result-{rank}.json"
