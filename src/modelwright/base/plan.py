"""Plan: how a job runs, never what it computes. Plain data, written to the run, executed as written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from modelwright.base.axes import data_ranks
from modelwright.base.errors import ModelwrightError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is expected to cost, from a measurement or a model of it.

    Attributes:
        step_seconds: seconds of one step.
        step_seconds_low, step_seconds_high: the interval in which it should fall.
        peak_bytes: peak memory of one worker.
        samples_per_second: samples of all workers together.
        source: where the numbers come from, such as ``measured: 4 steps of the real loop``.
    """

    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float
    peak_bytes: int
    samples_per_second: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a job runs.

    Attributes:
        workers: processes that train together.
        threads: CPU threads of each worker.
        device: ``cpu`` or ``cuda``.
        layout: sizes of the mesh axes; their product is ``workers``.
        layouts: settings of the layouts, by axis; empty for the usual ones.
        exchange: how updates travel between replicas: a name of ``modelwright.parallel.EXCHANGES``, or a mapping of
            ``use`` and its settings.
        micro_batch: samples of one forward and backward on one worker.
        precision: in which numbers a step is computed, a name of ``modelwright.parallel.PRECISIONS``.
        attention: attention kernel, such as ``sdpa`` or ``explicit``; ``None`` where the model offers no choice.
        recompute: which activations are computed again in the backward: ``none``, ``full``, ``selective``, patterns of
            module names, or the bytes that a micro-batch's activations are to fit in.
        compile: whether the repeated blocks of the model are compiled.
        offload: what is kept in the host's memory between steps: ``none`` or ``moments`` of the optimizer.
        steps: optimizer updates in all; a time budget is turned into it once.
        prediction: what it should cost, if known.
        number: 1 for the first plan of a run, one more with each revision.
        reasons: why each value was chosen, by field name.
    """

    workers: int = 1
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    layout: dict[str, int] = field(default_factory=lambda: {"replicate": 1})
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    exchange: str | dict[str, Any] = "all-reduce"
    micro_batch: int
    precision: str = "fp32"
    attention: str | None = None
    recompute: str | int | tuple[str, ...] = "none"
    compile: bool = False
    offload: str = "none"
    steps: int
    prediction: Prediction | None = None
    number: int = 1
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def shares(self) -> int:
        """Into how many parts the samples of a step are divided; workers along the other axes get the same ones."""
        return data_ranks(self.layout)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, where: str = "") -> Plan:
        """The plan back from :meth:`to_json`.

        Raises:
            ModelwrightError: written by a newer version, or not a plan.
        """
        if not isinstance(values, dict) or not isinstance(values.get("format", 0), int):
            raise _no_plan("it holds no fields", where)
        if values.get("format", 0) > FORMAT:
            raise ModelwrightError(
                "this plan was written by a newer modelwright",
                where=where,
                remedy="upgrade: pip install -U modelwright",
            )
        values = {name: value for name, value in values.items() if name != "format"}
        try:
            if values.get("prediction"):
                values["prediction"] = Prediction(**values["prediction"])
            if isinstance(values.get("recompute"), list):
                values["recompute"] = tuple(values["recompute"])
            return cls(**values)
        except TypeError as error:  # fields that are missing or unknown
            raise _no_plan(str(error), where) from error


def _no_plan(reason: str, where: str) -> ModelwrightError:
    return ModelwrightError(f"this is not a plan: {reason}", where=where, remedy="restore the file from a copy")
