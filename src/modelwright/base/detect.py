"""What this machine offers: cores, memory and accelerators that this very process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from modelwright.base.cluster import Cluster

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def detect() -> Cluster:
    """Describe this machine, within the limits of affinity masks and control groups."""
    cuda = torch.cuda.is_available()
    return Cluster(
        device="cuda" if cuda else "cpu",
        devices=torch.cuda.device_count() if cuda else 0,
        device_name=torch.cuda.get_device_name(0) if cuda else _cpu_name(),
        device_bytes=torch.cuda.get_device_properties(0).total_memory if cuda else 0,
        cores=cores(),
        memory_bytes=memory_bytes(),
        features=_features(),
    )


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_bytes() -> int:
    """Main memory in bytes: the machine's, or the control group's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _features() -> tuple[str, ...]:
    flags = set(_cpu_field("flags").split())
    return tuple(feature for feature in _FEATURES if feature in flags)


def _cpu_field(name: str) -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
