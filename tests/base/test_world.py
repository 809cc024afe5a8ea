from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.world import run_world, warm
from torch.distributed import TCPStore

from modelwright.base.axes import ordered
from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh, world
from modelwright.launch import Placement, raise_failure, start
from modelwright.launch.environment import free_port

HERE = "tests.base.test_world"
DTYPES = ("float64", "float32", "bfloat16", "int64")


def values(rank: int, size: int) -> np.ndarray:
    """Small whole numbers: exact in every dtype, whatever the order of the sum."""
    return np.random.default_rng([rank, size]).integers(-20, 20, size=size).astype("int64")


# --- what the ranks run


def reduce_all(mesh: Mesh, sizes: list[int]) -> list[Any]:
    results = []
    for dtype in DTYPES:
        for op in ("sum", "min", "max"):
            for size in sizes:
                tensor = torch.from_numpy(values(mesh.rank, size)).to(getattr(torch, dtype))
                same = mesh.world.all_reduce(tensor, op)
                results.append(tensor.tolist() if same is tensor else "another tensor")
    return results


def reduce_later(mesh: Mesh) -> list[float]:
    tensors = [torch.full((3,), float(mesh.rank + place)) for place in range(4)]
    works = [mesh.world.all_reduce(tensor, asynchronous=True) for tensor in tensors]
    for work in works:
        work.wait()
    return [float(tensor.sum()) for tensor in tensors]


def gather_all(mesh: Mesh) -> dict[str, Any]:
    group = mesh.world
    tensors = {
        "x": torch.arange(mesh.rank * 3, dtype=torch.float64).reshape(mesh.rank, 3),
        "half": torch.full((2, 2), 0.5 + mesh.rank, dtype=torch.bfloat16).t(),
        "count": torch.tensor(mesh.rank),
    }
    gathered = group.gather(tensors)
    return {
        "json": group.gather({"rank": mesh.rank, "text": "ä" * mesh.rank}),
        "none": group.gather(None),
        "empty": group.gather({}),
        "shapes": [list(entry["x"].shape) for entry in gathered],
        "x": [entry["x"].tolist() for entry in gathered],
        "half": [[str(entry["half"].dtype), entry["half"].tolist()] for entry in gathered],
        "count": [int(entry["count"]) for entry in gathered],
    }


def along_axes(mesh: Mesh) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, group in mesh.axes.items():
        total = group.all_reduce(torch.tensor([mesh.rank]))
        source = group.broadcast(torch.tensor([mesh.rank]), source=group.size - 1)
        found[name] = [group.rank, group.size, int(total), int(source), group.gather(mesh.rank)]
    assert mesh.device_mesh is not None
    found["names"] = list(mesh.device_mesh.mesh_dim_names or ())
    mesh.world.barrier()
    return found


def busy(mesh: Mesh) -> list[float]:
    factor = torch.randn(1000, 1000)
    product = factor @ factor
    return [float(torch.get_num_threads()), float(product.isfinite().all())]


def fail_on_one(mesh: Mesh) -> None:
    if mesh.rank == 1:
        raise ValueError("the bug of rank 1")
    mesh.world.barrier()


def reform(arguments: list[str]) -> None:
    totals = []
    for _ in range(3):
        with world(device="cpu", joining=20) as mesh:
            totals.append(int(mesh.world.all_reduce(torch.tensor([mesh.rank + 1]))))
        assert not dist.is_initialized()
    (Path(arguments[0]) / f"totals-{mesh.rank}.json").write_text(json.dumps(totals))


def die_or_sum(arguments: list[str]) -> None:
    with world(device="cpu", joining=20) as mesh:
        if os.environ["MODELWRIGHT_ATTEMPT"] == "0" and mesh.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        mesh.world.barrier()


def late(arguments: list[str]) -> None:
    if os.environ["RANK"] == "1":
        time.sleep(20)
    with world(device="cpu", joining=0.3):
        pass


def no_rank_zero(arguments: list[str]) -> None:
    if os.environ["RANK"] == "0":
        time.sleep(20)
    with world(device="cpu", joining=0.3):
        pass


def own_group(arguments: list[str]) -> None:
    dist.init_process_group("gloo")
    with world(device="cpu") as mesh:
        assert int(mesh.world.all_reduce(torch.tensor([1]))) == mesh.size == 2
        assert mesh.world.gather(mesh.rank) == [0, 1]
    assert dist.is_initialized()
    dist.barrier()
    dist.destroy_process_group()


def under_torchrun(arguments: list[str]) -> None:
    for name in list(os.environ):
        if name.startswith("MODELWRIGHT_"):
            del os.environ[name]
    with world(device="cpu", joining=20) as mesh:
        mesh.world.barrier()


def under_an_agent(arguments: list[str]) -> None:
    """As torch's elastic agents start it: they hold the store, which stays when a world has died."""
    under = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "job", "MASTER_PORT": arguments[0]}
    os.environ.update(under)
    attempt = os.environ["MODELWRIGHT_ATTEMPT"]
    del os.environ["MODELWRIGHT_GENERATION"]
    with world(device="cpu", joining=20) as mesh:
        mesh.world.barrier()
        if attempt == "0" and mesh.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        mesh.world.barrier()


def catches_error(arguments: list[str]) -> None:
    with pytest.raises(KeyError), world(device="cpu", joining=20):
        raise KeyError("inside")
    assert not dist.is_initialized()


# --- the tests


@pytest.mark.parametrize("workers", [2, 3])
def test_all_reduce_agrees_with_numpy(workers: int) -> None:
    sizes = [0, 1, 7, 1000]
    reductions: dict[str, Any] = {"sum": np.sum, "min": np.min, "max": np.max}
    expected = [
        reduction([values(rank, size) for rank in range(workers)], axis=0).tolist()
        for dtype in DTYPES
        for reduction in reductions.values()
        for size in sizes
    ]
    results = run_world(f"{HERE}:reduce_all", workers, sizes=sizes)
    assert results == [expected] * workers
    assert expected[3] != values(0, 1000).tolist()  # one rank's own numbers would not do


def test_all_reduce_can_run_behind() -> None:
    assert run_world(f"{HERE}:reduce_later") == [[3.0, 9.0, 15.0, 21.0]] * 2


def test_gather_takes_json_and_uneven_tensors() -> None:
    results = run_world(f"{HERE}:gather_all", 3)
    assert results[0] == results[1] == results[2]
    told = results[0]
    assert told["json"] == [{"rank": rank, "text": "ä" * rank} for rank in range(3)]
    assert (told["none"], told["empty"]) == ([None] * 3, [{}] * 3)
    assert told["shapes"] == [[0, 3], [1, 3], [2, 3]]
    assert told["x"] == [np.arange(rank * 3.0).reshape(rank, 3).tolist() for rank in range(3)]
    assert told["half"] == [["torch.bfloat16", [[0.5 + rank] * 2] * 2] for rank in range(3)]
    assert told["count"] == [0, 1, 2]


def test_axes_are_rows_and_columns_of_the_ranks() -> None:
    results = run_world(f"{HERE}:along_axes", 4, layout={"replicate": 2, "shard": 2})
    grid = np.arange(4).reshape(2, 2)
    for rank, told in enumerate(results):
        row, column = divmod(rank, 2)
        for name, place, line in (("replicate", row, grid[:, column]), ("shard", column, grid[row])):
            assert told[name] == [place, 2, int(line.sum()), int(line[-1]), line.tolist()]
        assert told["names"] == ["replicate", "shard"]


def test_an_axis_may_have_size_one() -> None:
    results = run_world(f"{HERE}:along_axes", 2, layout={"shard": 2, "tensor": 1})
    assert [told["tensor"] for told in results] == [[0, 1, 0, 0, [0]], [0, 1, 1, 1, [1]]]


def test_a_forked_rank_computes_with_its_threads(tmp_path: Path) -> None:
    call = json.dumps({"function": f"{HERE}:busy", "layout": None, "arguments": {}})
    placement = Placement(1, 2, start="fork")
    with start("tests.world:rank_main", [str(tmp_path), call], placement, logs=tmp_path, warm=warm()) as job:
        assert job.wait(30).state == "finished"
    assert json.loads((tmp_path / "result-0.json").read_text()) == [2.0, 1.0]


def test_a_world_is_ready_soon() -> None:
    assert warm().wait_ready()
    seconds = []
    for _ in range(10):  # 20 forks
        begin = time.monotonic()
        run_world(f"{HERE}:reduce_later")
        seconds.append(time.monotonic() - begin)
    assert statistics.median(seconds) < 1.5


def test_a_failure_names_the_rank_and_shows_its_log() -> None:
    with pytest.raises(ModelwrightError, match="rank 1 failed: ValueError: the bug of rank 1") as told:
        run_world(f"{HERE}:fail_on_one")
    assert "raise ValueError" in str(told.value)


def started(entry: str, folder: Path, port: int | None = None, attempt: int = 0) -> Any:
    placement = Placement(2, 1, port=port, start="fork")
    with start(f"{HERE}:{entry}", [str(folder)], placement, logs=folder, warm=warm(), attempt=attempt) as job:
        return job.wait(30)


def test_a_world_forms_again_in_the_same_processes(tmp_path: Path) -> None:
    status = started("reform", tmp_path)
    assert status.state == "finished", status.failure
    assert [json.loads((tmp_path / f"totals-{rank}.json").read_text()) for rank in range(2)] == [[3] * 3] * 2


def test_a_world_forms_again_on_the_same_port_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    failure = started("die_or_sum", tmp_path, port).failure
    assert failure and (failure.rank, failure.signal) == (1, "SIGKILL")
    begin = time.monotonic()
    assert started("die_or_sum", tmp_path, port, attempt=1).state == "finished"
    assert time.monotonic() - begin < 5


def test_a_world_forms_in_a_store_that_a_dead_one_has_filled(tmp_path: Path) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends = []
    for attempt in range(3):
        placement = Placement(2, 1, start="fork")
        arguments = [str(store.port)]
        entry = f"{HERE}:under_an_agent"
        with start(entry, arguments, placement, logs=tmp_path, warm=warm(), attempt=attempt) as job:
            ends.append(job.wait(30).state)
    assert ends == ["failed", "finished", "finished"]


@pytest.mark.parametrize(("entry", "rank", "absent"), [("late", 0, "rank 1"), ("no_rank_zero", 1, "rank 0")])
def test_a_rank_that_does_not_come_is_named(entry: str, rank: int, absent: str, tmp_path: Path) -> None:
    failure = started(entry, tmp_path).failure
    assert failure and failure.rank == rank and failure.error
    assert f"rank {rank} waited 0.3 s for {absent}" in failure.error["what"]
    assert failure.error["remedy"]
    with pytest.raises(ModelwrightError, match="waited"):
        raise_failure(failure)


@pytest.mark.parametrize("entry", ["own_group", "under_torchrun", "catches_error"])
def test_worlds_of_others_and_errors_inside(entry: str, tmp_path: Path) -> None:
    status = started(entry, tmp_path)
    assert status.state == "finished", status.failure


def test_a_world_of_one_needs_no_group() -> None:
    with world({"replicate": 1, "shard": 1}, device="cpu") as mesh:
        assert not dist.is_initialized()
        assert (mesh.rank, mesh.size, list(mesh.axes), mesh.device_mesh) == (
            0,
            1,
            ["replicate", "shard"],
            None,
        )
        tensor = torch.ones(3)
        assert mesh.axis("shard").all_reduce(tensor) is tensor
        mesh.world.all_reduce(tensor, asynchronous=True).wait()
        mesh.world.barrier()
        assert mesh.world.broadcast(tensor) is tensor and tensor.tolist() == [1, 1, 1]
        assert mesh.world.gather({"a": 1}) == [{"a": 1}]
        assert torch.equal(mesh.world.gather({"a": tensor})[0]["a"], tensor)
        with pytest.raises(ModelwrightError, match="no axis 'shrad'") as told:
            mesh.axis("shrad")
        assert "shard" in told.value.remedy


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ({"replicate": 2}, "the layout needs 2 ranks"),
        ({"replicate": 0}, "'0' is no number of ranks along the axis replicate"),
        ({"replicate": -1, "shard": -1}, "'-1' is no number"),
        ({"shrad": 1}, "no axis 'shrad'"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: dict[str, int], told: str) -> None:
    with pytest.raises(ModelwrightError, match=told), world(layout, device="cpu"):
        pass


def test_axes_are_ordered_whatever_the_recipe_says() -> None:
    assert list(ordered({"tensor": 2, "replicate": 3, "pipeline": 1})) == ["pipeline", "replicate", "tensor"]


def joint(mesh: Mesh) -> list[list[int]]:
    groups = [mesh.data, mesh.along("replicate", "tensor"), mesh.along("shard"), mesh.along("context", "tensor")]
    sums = [int(group.all_reduce(torch.tensor(2**mesh.rank))) for group in groups]
    return [[group.rank for group in groups], [group.size for group in groups], sums]


def test_ranks_along_several_axes_find_each_other() -> None:
    """Each sum names its members, a bit for each; the numbers of ranks by hand: replicate 2 x shard 2 x tensor 2."""
    found = run_world("tests.base.test_world:joint", 8, layout={"tensor": 2, "shard": 2, "replicate": 2})
    data = [0b01010101, 0b10101010]
    outer = [0b00110011, 0b11001100]
    for rank, (ranks, sizes, sums) in enumerate(found):
        replicate, shard, tensor = rank // 4, rank // 2 % 2, rank % 2
        assert sizes == [4, 4, 2, 2]
        assert ranks == [2 * replicate + shard, 2 * replicate + tensor, shard, tensor]
        assert sums[:2] == [data[tensor], outer[shard]]
        assert sums[3] == (1 << rank) + (1 << (rank ^ 1))


def environment(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        environment(monkeypatch, RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(ModelwrightError, match=f"port {port} is taken") as told, world(device="cpu"):
            pass
    assert "rank 0 of 2" in told.value.where and "MASTER_PORT" in told.value.remedy


def test_an_environment_that_is_not_complete_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ModelwrightError, match="MASTER_PORT missing"), world(device="cpu"):
        pass
    environment(monkeypatch, MASTER_PORT="abc")
    with pytest.raises(ModelwrightError, match="MASTER_PORT must be a whole number"), world(device="cpu"):
        pass
