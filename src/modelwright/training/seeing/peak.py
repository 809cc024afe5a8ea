"""Peak: the floating-point operations a device can do in a second; and how much of that a training uses."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

# Dense matrix products with accumulation in float32, in 1e12 operations a second, from the makers' data sheets.
# The first name that is part of the device's counts: longer ones stand before those they begin with.
_KNOWN: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250, "fp16": 2250, "fp8": 4500, "tf32": 1125},
    "GH200": {"bf16": 989.4, "fp16": 989.4, "fp8": 1978.9, "tf32": 494.7, "fp32": 66.9},
    "H200": {"bf16": 989.4, "fp16": 989.4, "fp8": 1978.9, "tf32": 494.7, "fp32": 66.9},
    "H100 PCIe": {"bf16": 756, "fp16": 756, "fp8": 1513, "tf32": 378, "fp32": 51.2},
    "H100 NVL": {"bf16": 835.5, "fp16": 835.5, "fp8": 1671, "tf32": 417.5, "fp32": 60},
    "H100": {"bf16": 989.4, "fp16": 989.4, "fp8": 1978.9, "tf32": 494.7, "fp32": 66.9},
    "A100": {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    "A10G": {"bf16": 70, "fp16": 70, "tf32": 35, "fp32": 31.5},
    "L40S": {"bf16": 362, "fp16": 362, "fp8": 733, "tf32": 183, "fp32": 91.6},
    "L4": {"bf16": 121, "fp16": 121, "fp8": 242, "tf32": 60, "fp32": 30.3},
    "V100": {"fp16": 125, "fp32": 15.7},
    "T4": {"fp16": 65, "fp32": 8.1},
}
_DTYPES = {
    "bf16": torch.bfloat16,
    "bf16-weights": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
_COLUMNS = {"bf16-weights": "bf16"}
_SIDES = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a device can do.

    Attributes:
        flops: floating-point operations a second.
        source: where the number is from.
    """

    flops: float
    source: str


def peak(device: torch.device, precision: str) -> Peak:
    """The data sheet's rate of a known device in this precision; else the rate of a matrix product, measured."""
    known = table_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
    return known or measured_peak(device, precision)


def table_peak(name: str, precision: str) -> Peak | None:
    """By the device's name; ``None`` where the table lacks it."""
    for part, rates in _KNOWN.items():
        words = f" {name.replace('-', ' ')} "
        rate = rates.get(_COLUMNS.get(precision, precision))
        if f" {part} " in words and rate is not None:
            return Peak(flops=rate * 1e12, source=f"data sheet of {part}, dense {precision}: {rate:g} TFLOP/s")
    return None


def measured_peak(device: torch.device, precision: str, seconds: float = 0.2) -> Peak:
    """The best rate of a square matrix product on this device, over ``seconds``, with this process's threads."""
    dtype, side = _DTYPES.get(precision, torch.float32), _SIDES.get(device.type, 1024)
    one, other = (torch.randn(side, side, device=device, generator=_apart(device)).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        _wait(device)
        begun = time.perf_counter()
        torch.mm(one, other)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    kind = str(dtype).removeprefix("torch.")
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return Peak(flops=2 * side**3 / best, source=f"measured: best {kind} product of {side} x {side} matrices{threads}")


def utilisation(flops_per_step: float, step_seconds: float, one_peak: float, workers: int) -> float:
    """``flops per step / (seconds * peak * workers)``."""
    return flops_per_step / (step_seconds * one_peak * workers)


def _apart(device: torch.device) -> torch.Generator:
    """Random numbers that leave the training's alone."""
    return torch.Generator(device).manual_seed(0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
