"""What is saved comes back bit by bit, what is damaged is passed over, and a resumed run is the undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import (
    BATCH,
    TECHNIQUES,
    heard,
    network,
    points,
    prepare,
    same,
    snapshot,
    stepping,
)
from tests.world import run_world
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.objectives.next_token import NextToken
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared

HERE = "tests.training.test_checkpoints"
ALONE = Group(0, 1)


def trained(steps: int, mesh: Mesh | None = None, **fields: Any) -> Prepared:
    """After so many of ten steps."""
    prepared = prepare(points(), mesh, **fields)
    list(islice(stepping(prepared), steps))
    return prepared


def save(prepared: Prepared, folder: Path, keep: int = 2) -> Path:
    return checkpoints.save(prepared.state, folder, prepared.group, keep)


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints.list_checkpoints(folder)]


class Tied(nn.Module):
    """A language model whose head is its embedding; it has a buffer too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(torch.tanh(self.hidden(self.embedding(inputs))))


def tied(steps: int) -> Prepared:
    tokens = torch.arange(60 * 4).reshape(60, 4) % 16
    data = {"inputs": tokens, "targets": (tokens + 1) % 16}
    prepared = prepare(data, model=Tied(), objective=NextToken(), optimizer=TECHNIQUES["adamw"])
    list(islice(stepping(prepared), steps))
    return prepared


# --- saving and loading


@pytest.mark.parametrize("name", TECHNIQUES)
def test_everything_comes_back(name: str, tmp_path: Path) -> None:
    saved = trained(4, optimizer=TECHNIQUES[name])
    path = save(saved, tmp_path)
    fresh = trained(0, optimizer=TECHNIQUES[name])
    assert not same(snapshot(fresh), snapshot(saved))
    assert checkpoints.load_newest(fresh.state, tmp_path, ALONE) == path == tmp_path / "step-00000004"
    assert same(snapshot(fresh), snapshot(saved))
    assert any(key.startswith("optimizer/0.weight/") for key in snapshot(fresh))
    assert fresh.state.numbers() == saved.state.numbers()
    assert fresh.state.samples == 4 * BATCH


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    saved, fresh = tied(3), tied(0)
    save(saved, tmp_path)
    checkpoints.load_newest(fresh.state, tmp_path, ALONE)
    assert same(snapshot(fresh), snapshot(saved))
    assert int(fresh.state.model_tensors()["calls"]) == 3
    model = fresh.program.model
    assert model.head.weight is model.embedding.weight
    fresh_steps, saved_steps = list(stepping(fresh)), list(islice(stepping(saved), 7))
    assert [step.losses for step in fresh_steps] == [step.losses for step in saved_steps]
    assert same(snapshot(fresh), snapshot(saved))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    prepared = trained(0)
    for _ in stepping(prepared):
        save(prepared, tmp_path, keep=3)
    assert names(tmp_path) == ["step-00000010", "step-00000009", "step-00000008"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names(tmp_path))


def test_nothing_saved_means_starting_anew(tmp_path: Path) -> None:
    prepared = trained(0)
    assert checkpoints.load_newest(prepared.state, tmp_path / "none", ALONE) is None
    assert prepared.state.step == 0


# --- damage


def flip(path: Path) -> None:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path / "optimizer.safetensors", 100)


def lose(path: Path) -> None:
    (path / "state.json").unlink()


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def garble_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[1, 2")


DAMAGES = {
    flip: "model.safetensors differs from its hash",
    truncate: "optimizer.safetensors has 100 bytes instead of",
    lose: "state.json is missing",
    lose_manifest: "the file does not exist",
    garble_manifest: "the file is not JSON",
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    """A folder with checkpoints of steps 3 and 6, and what was saved at step 3."""
    prepared = prepare(points())
    training = stepping(prepared)
    list(islice(training, 3))
    save(prepared, tmp_path)
    at_three = snapshot(prepared)
    list(islice(training, 3))
    save(prepared, tmp_path)
    yield tmp_path, at_three


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    damage: Callable[[Path], None], two: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    folder, at_three = two
    damage(folder / "step-00000006")
    prepared = trained(0)
    with heard() as events:
        loaded = checkpoints.load_newest(prepared.state, folder, ALONE)
    assert loaded == folder / "step-00000003"
    assert same(snapshot(prepared), at_three)
    (event,) = events
    assert (event.kind, event.level) == ("checkpoint-damaged", "warning")
    assert event.details["path"] == str(folder / "step-00000006")
    assert DAMAGES[damage] in event.message
    assert ("manifest" in event.message) == (damage in (lose_manifest, garble_manifest))


def test_a_damaged_checkpoint_is_made_anew(two: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = two
    undamaged = (folder / "step-00000006" / "model.safetensors").read_bytes()
    flip(folder / "step-00000006")
    prepared = trained(0)
    with heard():
        checkpoints.load_newest(prepared.state, folder, ALONE)
    list(islice(stepping(prepared), 3))
    path = save(prepared, folder)
    assert checkpoints.find_damage(path) is None
    assert (path / "model.safetensors").read_bytes() == undamaged


def test_a_damaged_checkpoint_does_not_crowd_out_a_whole_one(two: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = two
    flip(folder / "step-00000006")
    prepared = trained(0)
    with heard():
        checkpoints.load_newest(prepared.state, folder, ALONE)
        list(islice(stepping(prepared), 1))
        save(prepared, folder, keep=1)
        assert checkpoints.load_newest(trained(0).state, folder, ALONE) == folder / "step-00000004"


def test_half_written_checkpoints_are_not_there(two: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """What a kill while writing leaves behind; the next sitting takes it away."""
    folder, _ = two
    partial = folder / ".step-00000007.part"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    (folder / "step-00000008.part").mkdir()
    prepared = trained(0)
    with heard() as events:
        assert checkpoints.load_newest(prepared.state, folder, ALONE) == folder / "step-00000006"
    assert events == []
    list(islice(stepping(prepared), 1))
    assert checkpoints.find_damage(save(prepared, folder)) is None
    list(prepared.run(folder, lambda: True))
    assert not partial.exists()


def test_another_model_is_refused(tmp_path: Path) -> None:
    save(trained(2), tmp_path)
    wider = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    other = prepare(points(), model=wider)
    before = snapshot(other)
    with pytest.raises(
        ModelwrightError, match=r"0\.weight: float64 \[8, 5\] saved, float64 \[9, 5\] in the model"
    ) as caught:
        checkpoints.load_newest(other.state, tmp_path, ALONE)
    assert caught.value.remedy
    assert same(before, snapshot(other))
    longer = prepare(points(), model=nn.Sequential(*network(), nn.Linear(4, 4).double()))
    with pytest.raises(ModelwrightError, match=r"missing: 3\.bias; missing: 3\.weight"):
        checkpoints.load_newest(longer.state, tmp_path, ALONE)


@pytest.mark.parametrize(("name", "fields"), [("seed", {"seed": 99}), ("batch", {"batch": BATCH + 1})])
def test_another_order_or_schedule_is_refused(tmp_path: Path, name: str, fields: dict[str, int]) -> None:
    """Going on with it would repeat and lose samples, without a word."""
    save(trained(2), tmp_path)
    other = prepare(points(), **fields)
    before = snapshot(other)
    with pytest.raises(ModelwrightError, match=f"the saved run has {name}") as caught:
        checkpoints.load_newest(other.state, tmp_path, ALONE)
    assert caught.value.remedy
    assert same(before, snapshot(other))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save(trained(1), tmp_path)
    numbers = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**numbers, "format": 99}))
    with pytest.raises(ModelwrightError, match="newer modelwright"):
        checkpoints.load(trained(0).state, path)


# --- resuming


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_resumed_run_is_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    """With dropout: its random numbers come from the step, not from how often somebody sat down."""
    fields = {"optimizer": TECHNIQUES[name], "micro_batch": 4}
    whole = prepare(points(), model=network(dropout=0.5), **fields)
    losses = [step.losses for step in stepping(whole)]
    first = trained(4, model=network(dropout=0.5), **fields)
    save(first, tmp_path)
    torch.manual_seed(999)
    second = prepare(points(), model=network(dropout=0.5), **fields)
    checkpoints.load_newest(second.state, tmp_path, ALONE)
    torch.rand(7)
    assert [step.losses for step in stepping(second)] == losses[4:]
    assert same(snapshot(second), snapshot(whole))
    assert second.state.samples == whole.state.samples == 10 * BATCH


def test_random_numbers_follow_from_seed_step_and_rank_alone() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, ...]:
        state = prepare(points(), seed=seed).state
        state.step = step
        state.seed_step(rank)
        return tuple(torch.rand(4).tolist())

    places = list(product((11, 12), (0, 1, 2), (0, 1)))
    once, again = ([drawn(*place) for place in places] for _ in range(2))
    assert once == again
    assert len(set(once)) == len(places)


def stop_and_go(mesh: Mesh, folder: str) -> dict[str, Any]:
    """Ten steps at once, and four and six with files in between; hashes of all bits by rank."""
    fields: dict[str, Any] = {"micro_batch": 2, "optimizer": TECHNIQUES["adamw"]}
    whole = prepare(points(), mesh, model=network(dropout=0.5), **fields)
    list(stepping(whole))
    first = trained(4, mesh, model=network(dropout=0.5), **fields)
    path = save(first, Path(folder))
    assert path.exists()  # on every rank: none goes on before it is written
    save(first, Path(folder) / f"of-rank-{mesh.rank}")
    second = prepare(points(), mesh, model=network(dropout=0.5), **fields)
    checkpoints.load_newest(second.state, Path(folder), second.group)
    list(stepping(second))
    assert same(snapshot(second), snapshot(whole))
    return {name: value.tolist() for name, value in snapshot(second).items()}


def test_two_ranks_resume_as_one(tmp_path: Path) -> None:
    first, second = run_world(f"{HERE}:stop_and_go", 2, folder=str(tmp_path))
    assert first == second
    assert names(tmp_path) == names(tmp_path / "of-rank-0") == ["step-00000004"]
    assert not (tmp_path / "of-rank-1").exists()  # one alone writes


# --- a full disk

LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from tests.training.test_checkpoints import save, trained
from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group

torch.set_num_threads(1)
prepared = trained(2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        save(prepared, Path(sys.argv[1]))
    except ModelwrightError as error:
        sys.stdout.write(f"{error}\\n")
"""


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    """It fails in the weights, then in the moments."""
    older = save(trained(1), tmp_path)
    sizes = {file.name: file.stat().st_size for file in older.iterdir()}
    assert 100 < sizes["model.safetensors"] < 1500 < sizes["optimizer.safetensors"]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), "100", "1500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot write: ") == done.stdout.count("where: ") == 2
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    assert checkpoints.find_damage(older) is None
    fresh = trained(0)
    assert checkpoints.load_newest(fresh.state, tmp_path, ALONE) == older


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_the_older_checkpoint(small_disk: Path) -> None:
    prepared = prepare(points(), total=30)
    saved: list[Path] = []
    with pytest.raises(ModelwrightError, match="cannot write: the disk is full") as caught:
        for _ in stepping(prepared):
            saved.append(save(prepared, small_disk, keep=30))
    assert len(saved) > 1
    assert str(small_disk) in caught.value.where
    assert "free some space" in caught.value.remedy
    assert sorted(path.name for path in small_disk.iterdir()) == [path.name for path in saved]
    assert checkpoints.load_newest(trained(0, total=30).state, small_disk, ALONE) == saved[-1]


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file stands in the way")
    with pytest.raises(ModelwrightError) as caught:
        save(trained(1), tmp_path / "checkpoints")
    assert str(tmp_path / "checkpoints") in caught.value.where
