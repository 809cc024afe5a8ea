"""The environment that makes a process a rank: the names torchrun uses, and a few of ours."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.launch.placement import Placement

ADDRESS = "127.0.0.1"


def rank_environments(
    placement: Placement, *, environment: Mapping[str, str] | None, logs: Path, attempt: int
) -> list[dict[str, str]]:
    """The whole environment of each rank. All share a generation, a name that no earlier world has had.

    Raises:
        ModelwrightError: the port that was asked for is taken.
    """
    port = free_port() if placement.port is None else checked_port(placement.port)
    shared = {
        **os.environ,
        **(environment or {}),
        "WORLD_SIZE": str(placement.workers),
        "LOCAL_WORLD_SIZE": str(placement.workers),
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(placement.threads),
        "MODELWRIGHT_THREADS": str(placement.threads),
        "MODELWRIGHT_ATTEMPT": str(attempt),
        "MODELWRIGHT_GENERATION": f"{attempt}-{uuid.uuid4().hex[:12]}",
        "MODELWRIGHT_LOGS": str(logs),
        **_loopback(),
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(placement.workers)]


def free_port() -> int:
    """A TCP port that nobody listens at."""
    return _bound_port(0)


def checked_port(port: int) -> int:
    """``port``, if nobody listens at it.

    Raises:
        ModelwrightError: it is taken, or may not be used.
    """
    try:
        return _bound_port(port)
    except OSError as error:
        raise ModelwrightError(
            f"port {port} is taken ({error.strerror})",
            where=f"{ADDRESS}:{port}",
            remedy="name another port, or none: a free one is then picked",
        ) from error


def _bound_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return int(probe.getsockname()[1])


def _loopback() -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform.startswith("linux") else {}
