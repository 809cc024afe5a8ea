"""Ranks that go round a small loop with real collectives, and one that stays behind."""

from __future__ import annotations

import time

import torch

from modelwright.base.phases import Phase, enter
from modelwright.base.world import Mesh, world


def model(stuck: str) -> None:
    if stuck == "sleep":
        time.sleep(60)
    while stuck == "spin":
        pass


def loop(arguments: list[str]) -> None:
    """So many steps of 10 ms; at step 3, rank 1 stays in its forward."""
    stuck, steps, timeout = arguments
    with world(device="cpu", timeout=float(timeout), joining=30) as mesh:
        for number in range(1, int(steps) + 1):
            step(mesh, number, stuck if number == 3 and mesh.rank == 1 else "")


def step(mesh: Mesh, number: int, stuck: str) -> None:
    enter(Phase.DATA, number)
    time.sleep(0.01)
    enter(Phase.FORWARD)
    if stuck == "pause":
        time.sleep(1.5)
    model(stuck)
    enter(Phase.BACKWARD)
    enter(Phase.EXCHANGE)
    mesh.world.all_reduce(torch.zeros(3))
    enter(Phase.OPTIMIZER)
