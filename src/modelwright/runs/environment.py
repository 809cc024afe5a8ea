"""What a run ran on and in, recorded so that a result can be understood later; secrets are left out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from modelwright.runs.scrub import names_a_secret, scrub, scrub_arguments, scrub_text

_PACKAGES = ("modelwright", "torch", "numpy", "safetensors", "tokenizers")
_PREFIXES = (
    "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "TORCH_", "PYTORCH_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_",
    "SLURM_", "MODELWRIGHT_", "PYTHONHASHSEED",
)  # fmt: skip
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment(**facts: Any) -> dict[str, Any]:
    """Everything :file:`env.json` holds; ``facts`` are added, such as the devices' names."""
    return {
        "format": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "packages": {name: version for name in _PACKAGES if (version := package_version(name))},
        "git": _git(),
        "argv": scrub_arguments(sys.argv),
        "variables": chosen_variables(os.environ),
        **scrub(facts),
    }


def chosen_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that steer a run and are no secrets, by name."""
    return {
        name: scrub_text(value)
        for name, value in sorted(variables.items())
        if (name in _NAMES or name.startswith(_PREFIXES)) and not names_a_secret(name)
    }


def package_version(name: str) -> str:
    """The installed version of a package; ``""`` where it is not installed. Imports nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    commit = _git_answer(["rev-parse", "HEAD"])
    if not commit:
        return None
    changed = _git_answer(["status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def _git_answer(arguments: Sequence[str]) -> str | None:
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
