"""Cluster: what there is to run on. Plain data; :mod:`modelwright.base.detect` fills it in for this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines of one kind.

    Attributes:
        machines: how many.
        device: ``cpu`` or ``cuda``.
        devices: accelerators in one machine (0 on CPU).
        device_name: as the maker calls it.
        device_bytes: memory of one accelerator.
        cores: CPU cores of one machine that this process may use.
        memory_bytes: main memory of one machine that this process may use.
        features: instruction sets and abilities that matter, such as ``amx_bf16``.
    """

    machines: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    devices: int = 0
    device_name: str
    device_bytes: int = 0
    cores: int
    memory_bytes: int
    features: tuple[str, ...] = ()
