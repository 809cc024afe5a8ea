"""The world of processes: ``with world() as mesh`` finds the other ranks and makes groups of them.

It reads the environment that :mod:`modelwright.launch` or torchrun made (RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT, LOCAL_RANK); without it the world is this process alone, and nothing communicates.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from modelwright.base.axes import AXES, DATA_AXES, ordered
from modelwright.base.errors import ModelwrightError, RunFailed, nearest
from modelwright.base.group import Group
from modelwright.base.meeting import meet

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOPBACK = ("127.0.0.1", "localhost")
_PARTING_SECONDS = 5.0
_KNOCKING_SECONDS = 0.02

# A store lives as long as rank 0: whoever holds a mesh of an earlier world would keep its port taken anyway.
_hosted: dict[tuple[str, int], TCPStore] = {}


@dataclass(frozen=True)
class Mesh:
    """The ranks in their places: one group along each axis of the layout, and one of all.

    Attributes:
        world: all ranks.
        device: where this rank computes.
        axes: groups by axis, outermost first.
        device_mesh: torch's mesh of the same axes; ``None`` in a world of one.
    """

    world: Group
    device: torch.device
    axes: Mapping[str, Group]
    device_mesh: DeviceMesh | None = None
    _joint: dict[tuple[str, ...], Group] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rank(self) -> int:
        """Number of this process in the world."""
        return self.world.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.world.size

    @property
    def sizes(self) -> dict[str, int]:
        """How many ranks there are along each axis of the layout."""
        return {axis: group.size for axis, group in self.axes.items()}

    @property
    def data(self) -> Group:
        """The ranks with other samples than this one: all that share its place along the other axes."""
        return self.along(*DATA_AXES)

    def axis(self, name: str) -> Group:
        """The ranks along an axis; this one alone, where the layout does not have it.

        Raises:
            ModelwrightError: there is no such axis.
        """
        if name not in AXES:
            raise ModelwrightError(f"there is no axis '{name}'", where="layout", remedy=nearest(name, AXES))
        return self.axes.get(name, Group(0, 1))

    def along(self, *names: str) -> Group:
        """The ranks along several axes together; those of the outer axis vary slowest.

        The first call for a set of axes is a collective of the whole world.
        """
        wide = tuple(axis for axis in self.axes if axis in names and self.axes[axis].size > 1)
        if len(wide) < 2:
            return self.axes[wide[0]] if wide else Group(0, 1)
        if len(wide) == sum(group.size > 1 for group in self.axes.values()):
            return self.world
        if wide not in self._joint:
            self._joint[wide] = self._together(wide)
        return self._joint[wide]

    def _together(self, wide: tuple[str, ...]) -> Group:
        places = torch.arange(self.size).view([group.size for group in self.axes.values()])
        inner = [number for number, axis in enumerate(self.axes) if axis in wide]
        outer = [number for number, axis in enumerate(self.axes) if axis not in wide]
        rows = places.permute(*outer, *inner).reshape(-1, math.prod(self.axes[axis].size for axis in wide)).tolist()
        mine, _ = dist.new_subgroups_by_enumeration(rows)  # type: ignore[no-untyped-call]
        row = next(row for row in rows if self.rank in row)
        return Group(row.index(self.rank), len(row), mine, self.world.transport)


@dataclass(frozen=True)
class _Seat:
    """Which rank this process is, and where the ranks meet."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    @property
    def where(self) -> str:
        return f"rank {self.rank} of {self.size}, {self.address}:{self.port}"


@contextmanager
def world(
    layout: Mapping[str, int] | None = None,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    timeout: float = 1800.0,
    joining: float = 120.0,
) -> Iterator[Mesh]:
    """Join the other ranks; leave them at the end of the block, also when it raises.

    A process group that exists already is used and left alone.

    Args:
        layout: sizes of the mesh axes, outermost first; ``{"replicate": all}`` by default.
        device: where to compute; CUDA where there is any, by default.
        timeout: seconds that a collective may take.
        joining: seconds that ranks wait for each other to come.

    Raises:
        ModelwrightError: the environment, layout or port is wrong.
        RunFailed: other ranks did not come in time.
    """
    _apply_threads()
    if dist.is_initialized():
        seat = _Seat(dist.get_rank(), dist.get_world_size(), _number("LOCAL_RANK", 0), "", 0)
        yield _mesh(seat, _sizes(layout, seat.size), _device(device, seat))
        return
    seat = _seat()
    sizes, place = _sizes(layout, seat.size), _device(device, seat)
    if seat.size == 1:
        yield Mesh(Group(0, 1), place, {axis: Group(0, 1) for axis in sizes})
        return
    with _joined(seat, place, timeout, joining):
        yield _mesh(seat, sizes, place)


def _seat() -> _Seat:
    missing = [name for name in _NAMES if name not in os.environ]
    if "RANK" in missing and "WORLD_SIZE" in missing:
        return _Seat(0, 1, 0, "", 0)
    size = _number("WORLD_SIZE", 1)
    if missing and size > 1:
        raise ModelwrightError(
            f"the environment of this rank is not complete: {', '.join(missing)} missing",
            remedy="start the processes with modelwright or with torchrun",
        )
    address = os.environ.get("MASTER_ADDR", "")
    return _Seat(_number("RANK", 0), size, _number("LOCAL_RANK", 0), address, _number("MASTER_PORT", 0))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ModelwrightError(f"{name} must be a whole number, not '{text}'", where=f"environment: {name}")
    return int(text)


def _apply_threads() -> None:
    """Threads of this rank: a fork finds OMP_NUM_THREADS read already, so it comes by another name too."""
    if threads := _number("MODELWRIGHT_THREADS", 0):
        torch.set_num_threads(threads)


def _device(wish: str | None, seat: _Seat) -> torch.device:
    if wish == "cpu" or (wish is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if seat.local_rank >= torch.cuda.device_count():
        raise ModelwrightError(
            f"rank {seat.rank} should compute on cuda:{seat.local_rank}, which is not there",
            where=f"{torch.cuda.device_count()} CUDA devices are visible",
            remedy="use fewer workers on this machine, or device: cpu",
        )
    device = torch.device("cuda", seat.local_rank)
    torch.cuda.set_device(device)
    return device


def arranged(mesh: Mesh, layout: Mapping[str, int]) -> Mesh:
    """The same ranks in other places; a collective of all of them, where the layout is another one.

    Raises:
        ModelwrightError: the layout is of another number of ranks.
    """
    sizes = _sizes(layout, mesh.size)
    if sizes == mesh.sizes:
        return mesh
    if mesh.size == 1:
        return Mesh(mesh.world, mesh.device, {axis: Group(0, 1) for axis in sizes})
    return _arranged(mesh.world, sizes, mesh.device)


def _sizes(layout: Mapping[str, int] | None, size: int) -> dict[str, int]:
    sizes = ordered(layout or {"replicate": size})
    if math.prod(sizes.values()) != size:
        product = " x ".join(f"{axis} {length}" for axis, length in sizes.items())
        raise ModelwrightError(
            f"the layout needs {math.prod(sizes.values())} ranks ({product}), but the world has {size}",
            where="layout",
            remedy="change the sizes of the axes, or the number of workers, so that they agree",
        )
    return sizes


@contextmanager
def _joined(seat: _Seat, device: torch.device, timeout: float, joining: float) -> Iterator[None]:
    store = _store(seat, joining)
    meeting = meet(store, seat.rank, seat.size, space=_job(), seconds=joining, where=seat.where)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(
            backend,
            store=meeting,
            rank=seat.rank,
            world_size=seat.size,
            timeout=timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        raise RunFailed(
            "the ranks met, but could not connect to each other",
            where=seat.where,
            remedy="another rank has died (see its log), or a firewall stands between them",
        ) from error
    try:
        yield
        _part(meeting, seat)
    finally:
        dist.destroy_process_group()


def _job() -> str:
    """What the ranks belong to: whoever launched them may have given them a store that others use too."""
    return os.environ.get("MODELWRIGHT_GENERATION", os.environ.get("TORCHELASTIC_RUN_ID", ""))


def _store(seat: _Seat, joining: float) -> TCPStore:
    hosting = seat.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not hosting:
        _knock(seat, joining)
        return _opened(seat, joining, is_master=False)
    place = (seat.address, seat.port)
    if place not in _hosted:
        loopback = seat.address in _LOOPBACK  # then listen there alone, where no other machine can reach it
        door = {"master_listen_fd": _listening(seat)} if loopback else {}
        _hosted[place] = _opened(seat, joining, is_master=True, **door)
    return _hosted[place]


def _opened(seat: _Seat, joining: float, **options: Any) -> TCPStore:
    limit = timedelta(seconds=joining)
    try:
        return TCPStore(seat.address, seat.port, seat.size, timeout=limit, wait_for_workers=False, **options)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise _port_taken(seat) from error
        raise _nobody(seat, joining) from error


def _listening(seat: _Seat) -> int:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((seat.address, seat.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _port_taken(seat) from None
            raise
        server.listen(socket.SOMAXCONN)
        return server.detach()


def _knock(seat: _Seat, joining: float) -> None:
    """Wait for rank 0 to listen: torch's own client sleeps a second and more between its tries."""
    end = time.monotonic() + joining
    while True:
        try:
            socket.create_connection((seat.address, seat.port), timeout=joining).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise _nobody(seat, joining) from error
        time.sleep(_KNOCKING_SECONDS)


def _port_taken(seat: _Seat) -> ModelwrightError:
    return ModelwrightError(
        f"port {seat.port} is taken, so the ranks cannot meet there",
        where=seat.where,
        remedy="set MASTER_PORT to a free port, or end the process that listens there",
    )


def _nobody(seat: _Seat, joining: float) -> RunFailed:
    return RunFailed(
        f"rank {seat.rank} waited {joining:g} s for rank 0, which did not answer",
        where=seat.where,
        remedy="rank 0 has died (see its log), or the address is wrong",
    )


def _part(meeting: Store, seat: _Seat) -> None:
    """Leave together: rank 0 holds the store, in which others may still read."""
    with suppress(RuntimeError):
        if meeting.add("left", 1) == seat.size:
            meeting.set("all-left", "yes")
        meeting.wait(["all-left"], timedelta(seconds=_PARTING_SECONDS))


def _mesh(seat: _Seat, sizes: Mapping[str, int], device: torch.device) -> Mesh:
    transport = device if dist.get_backend() == "nccl" else torch.device("cpu")
    return _arranged(Group(seat.rank, seat.size, dist.group.WORLD, transport), sizes, device)


def _arranged(ranks: Group, sizes: Mapping[str, int], device: torch.device) -> Mesh:
    mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    axes = {
        axis: Group(mesh.get_local_rank(axis), length, mesh.get_group(axis), ranks.transport)
        for axis, length in sizes.items()
    }
    return Mesh(ranks, device, axes, mesh)
