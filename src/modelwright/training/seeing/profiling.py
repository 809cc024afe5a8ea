"""Profile of chosen steps: a trace for Perfetto or Chrome, and where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from modelwright.base import phases
from modelwright.base.events import emit
from modelwright.base.files import make_folder, replacing, write_json
from modelwright.base.phases import Phase

OPERATORS = 15
MODULES = 15
_STEP = (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.EXCHANGE, Phase.OPTIMIZER)
_PHASE, _MODULE = "phase: ", "module: "


class Profiler:
    """Watches the phases and profiles the steps it was told to, on every rank alike.

    A step begins with its data and ends when the next phase is none of a step's. Where a device computes beside the
    host, its seconds are counted to the phase in which the host asked for them.

    Args:
        steps: numbers of the steps, 1 for the first of the run.
        folder: for ``step-N.json.gz`` and ``step-N.summary.json``; ranks but the first add their number.
        model: its modules' forwards are marked in the trace.
        device: where it computes.
        rank: of this process.
        depth: how many parts of a module's name tell one module from another.
    """

    def __init__(
        self,
        steps: frozenset[int],
        folder: Path,
        model: nn.Module,
        device: torch.device,
        *,
        rank: int = 0,
        depth: int = 2,
    ) -> None:
        self._steps, self._folder, self._model = steps, folder, model
        self._device, self._rank, self._depth = device, rank, depth
        self._running: _Running | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Profile the steps that come inside the block. Without any this does nothing at all."""
        if not self._steps:
            yield
            return
        make_folder(self._folder)
        _begun(self._device).stop()  # the first one of a process takes seconds, which are not the step's
        with phases.watching(self):
            try:
                yield
            finally:
                self._finish()

    def __call__(self, phase: Phase, step: int | None = None) -> None:
        """Hear of a phase."""
        if self._running is not None:
            if phase in _STEP and step is None:
                self._running.enter(phase)
                return
            self._finish()
        if phase is Phase.DATA and step in self._steps:
            self._running = _Running(step, self._model, self._device, self._depth)

    def _finish(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        summary, trace = running.stop(), self._path(running.step)
        with replacing(trace) as temporary:
            plain = temporary.with_name(f"{temporary.name}.gz")  # by its ending torch knows to compress
            running.profiler.export_chrome_trace(str(plain))
            plain.rename(temporary)
        write_json(trace.with_name(trace.name.replace(".json.gz", ".summary.json")), {**summary, "trace": trace.name})
        if self._rank == 0:
            emit("profiled", told(summary), step=running.step, trace=str(trace))

    def _path(self, step: int) -> Path:
        suffix = f"-rank-{self._rank}" if self._rank else ""
        return self._folder / f"step-{step}{suffix}.json.gz"


def told(summary: dict[str, Any]) -> str:
    """A summary in one sentence."""
    shares = ", ".join(f"{name} {entry['share']:.0%}" for name, entry in summary["phases"].items())
    return f"step {summary['step']} was profiled: {shares} of {summary['seconds'] * 1e3:.3g} ms"


class _Running:
    """A step that is being profiled."""

    def __init__(self, step: int, model: nn.Module, device: torch.device, depth: int) -> None:
        self.step = step
        self._device = device
        self._marks: list[Any] = []
        self._handles, self._unmarked = _mark_modules(model, depth)
        self.profiler = _begun(device)
        self._begun = self._since = time.perf_counter()
        self._phase = Phase.DATA
        self._seconds: dict[Phase, float] = defaultdict(float)
        self._mark = _entered(_PHASE + Phase.DATA.word)

    def enter(self, phase: Phase) -> None:
        self._leave()
        self._phase = phase
        self._mark = _entered(_PHASE + phase.word)

    def stop(self) -> dict[str, Any]:
        self._leave()
        ended = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        waited = time.perf_counter() - ended
        self.profiler.stop()
        for handle in self._handles:
            handle.remove()
        return self._summary(ended - self._begun, waited)

    def _leave(self) -> None:
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._since = now
        self._mark.__exit__(None, None, None)

    def _summary(self, seconds: float, waited: float) -> dict[str, Any]:
        events = list(self.profiler.events() or [])
        device = _device_seconds(events)
        return {
            "format": 1,
            "step": self.step,
            "seconds": seconds,
            "device": str(self._device),
            "device_wait_seconds": waited,
            "phases": {
                phase.word: {
                    "seconds": self._seconds[phase],
                    "share": self._seconds[phase] / seconds if seconds else 0.0,
                    "device_seconds": device.get(phase.word, 0.0),
                }
                for phase in _STEP
                if phase in self._seconds
            },
            "operators": _operators(self.profiler, self._device),
            "modules": _modules(events),
            "modules_note": self._unmarked,
        }


def _begun(device: torch.device) -> Any:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    profiler = profile(activities=activities, acc_events=True)
    profiler.start()
    return profiler


def _entered(name: str) -> Any:
    mark = record_function(name)
    mark.__enter__()  # type: ignore[no-untyped-call]
    return mark


def _mark_modules(model: nn.Module, depth: int) -> tuple[list[Any], str]:
    if any(module._compiled_call_impl is not None for module in model.modules()):
        return [], "modules are not marked: parts of the model are compiled, and hooks would compile them anew"
    handles: list[Any] = []
    for name, module in model.named_modules():
        if name and name.count(".") < depth:
            marks: list[Any] = []  # a module may be called inside itself
            handles.append(module.register_forward_pre_hook(partial(_begin_module, marks, name)))
            handles.append(module.register_forward_hook(partial(_end_module, marks), always_call=True))
    return handles, "forward only; modules inside others are counted in both"


def _begin_module(marks: list[Any], name: str, module: nn.Module, arguments: Any) -> None:
    marks.append(_entered(_MODULE + name))


def _end_module(marks: list[Any], module: nn.Module, arguments: Any, output: Any) -> None:
    if marks:
        marks.pop().__exit__(None, None, None)


def _device_seconds(events: Sequence[FunctionEvent]) -> dict[str, float]:
    """Seconds of the kernels that were asked for within each phase, by whichever thread."""
    spans = [event for event in events if event.name.startswith(_PHASE) and event.device_type.name == "CPU"]
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.kernels and not event.name.startswith((_PHASE, _MODULE)):
            start = event.time_range.start
            span = next((s for s in spans if s.time_range.start <= start <= s.time_range.end), None)
            if span is not None:
                seconds[span.name.removeprefix(_PHASE)] += sum(kernel.duration for kernel in event.kernels) / 1e6
    return dict(seconds)


def _operators(profiler: Any, device: torch.device) -> list[dict[str, Any]]:
    rows = [row for row in profiler.key_averages() if not row.key.startswith((_PHASE, _MODULE, "[memory]"))]
    on_device = device.type == "cuda"
    rows.sort(key=lambda row: -(row.self_device_time_total if on_device else row.self_cpu_time_total))
    return [
        {
            "name": row.key,
            "calls": row.count,
            "seconds": row.self_cpu_time_total / 1e6,
            "device_seconds": row.self_device_time_total / 1e6 if on_device else 0.0,
        }
        for row in rows[:OPERATORS]
    ]


def _modules(events: Sequence[FunctionEvent]) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.name.startswith(_MODULE) and event.device_type.name == "CPU":
            span = event.time_range
            seconds[event.name.removeprefix(_MODULE)].append((span.end - span.start) / 1e6)
    ordered = sorted(seconds.items(), key=lambda entry: -sum(entry[1]))
    return [{"name": name, "calls": len(each), "seconds": sum(each)} for name, each in ordered[:MODULES]]
