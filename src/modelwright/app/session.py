"""One training, recorded: what a launched worker and a Python caller alike do with a prepared training."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from modelwright.app.failing import failing, short_of_memory
from modelwright.app.seeing import seeing
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit, listening
from modelwright.base.files import speaking
from modelwright.data.reading.sizes import StepSizes
from modelwright.export.safetensors import export_weights
from modelwright.runs import EventLog, MetricsWriter, Run, Status, read_metrics, truncate_after
from modelwright.runs.fence import Fence, TakenOver
from modelwright.runs.metrics import steps
from modelwright.runs.sample_log import SampleLog
from modelwright.training import checkpoints
from modelwright.training.budget import tokens_per_sample
from modelwright.training.fit import Evaluated, Record, Saved
from modelwright.training.measure import peak_bytes
from modelwright.training.prepared import Prepared
from modelwright.training.steps import Step

Row = dict[str, Any]
Show = Callable[[Row], None]


def run_training(prepared: Prepared, run: Run, *, stop: Callable[[], bool], show: Show | None = None) -> Row:
    """Train from the run's newest checkpoint (or from the start) to the end, or until ``stop`` says so.

    Rank 0 writes the run's files; every rank takes part. A stopped training is saved.

    Returns:
        The summary that the run's record holds: steps, samples, seconds, losses, scores, ``status``.

    Raises:
        ModelwrightError: training failed; the run's record says so.
        TakenOver: another world has taken the run up meanwhile, and the record is that one's.
    """
    writes = prepared.group.rank == 0
    with (
        failing(run, writes=writes),
        short_of_memory(),
        _fenced(prepared, run) as fence,
        logged(run, prepared.group.rank),
    ):
        _begin(prepared, run, fence, writes)
        watch = prepared.training.watch
        with (
            _samples_noted(prepared, run, fence.generation),
            _recorder(prepared, run, writes, show) as recorder,
            seeing(prepared, run, watch) as look,
        ):
            # Closed also when the recorder fails: what is being written is to be there then.
            with closing(prepared.run(run.checkpoints, stop, recorder.flush, fence.check)) as records:
                for record in records:
                    recorder(record)
                    recorder.add(look(record))
            recorder.add(look.finish())
            recorder.summary |= look.summary(recorder.step_seconds)
        with prepared.weights.shown():  # only inside they are what is to be kept
            whole = prepared.whole_weights()
            if writes:
                fence.check()
                export_weights(whole, _weights(run))
        if writes:
            run.update(status=_status(prepared), summary=recorder.summary)
        return recorder.summary | {"status": _status(prepared)}


def _begin(prepared: Prepared, run: Run, fence: Fence, writes: bool) -> None:
    to = prepared.training.saving.to
    resumed = checkpoints.load_newest(prepared.state, run.checkpoints, prepared.group, to)
    if writes:
        fence.check()  # loading may have taken long
        state = prepared.state
        run.update(status="running")
        with speaking(_weights(run)):
            _weights(run).unlink(missing_ok=True)  # of an earlier sitting: from here on checkpoints are newer
        if resumed is not None:  # said first: whoever follows the metrics sees them rewritten next
            emit("resumed", f"goes on after step {state.step} of {state.total}", step=state.step)
        elif done := sum(1 for _ in steps(read_metrics(run.metrics_path))):
            what = f"the run begins anew: {done} steps were done, and there is no checkpoint"
            emit("begun-anew", what, level="warning", steps=done)
        truncate_after(run.metrics_path, state.step)
        if not run.environment():
            write_environment(run)
        _tell_unscored(prepared)
    prepared.group.barrier()


def write_environment(run: Run) -> None:
    """Record the command, the machine and the software in the run."""
    cluster = vars(detect())
    run.write_environment(cluster=cluster | {"features": list(cluster["features"])})


def _tell_unscored(prepared: Prepared) -> None:
    training = prepared.training
    if training.evaluation.every is not None and training.data.held_out is None:
        emit("evaluation-skipped", "nothing is held out, so there is nothing to evaluate on the way", level="warning")


def _weights(run: Run) -> Path:
    return run.artifacts / "model.safetensors"


def _status(prepared: Prepared) -> Status:
    return "finished" if prepared.complete else "stopped"


@contextmanager
def logged(run: Run, rank: int = 0) -> Iterator[None]:
    """Write the events inside the block to the run."""
    log = EventLog(run.events_path, rank=rank)
    try:
        with listening(log):
            yield
    finally:
        log.close()


@contextmanager
def _fenced(prepared: Prepared, run: Run) -> Iterator[Fence]:
    """Take the run up; where another world does so inside the block, that is what is told, whatever came of it."""
    group = prepared.group
    taken = Fence.take(run.path).generation if group.rank == 0 else ""
    fence = Fence(run.path, group.gather(taken)[0])
    try:
        yield fence
    except TakenOver:
        raise
    except BaseException:  # Ctrl-C, too: what it is noted in may be the other world's
        _tell_taken_over(fence)
        raise


def _tell_taken_over(fence: Fence) -> None:
    try:
        fence.check()
    except TakenOver:
        raise
    except (ModelwrightError, OSError):
        return  # it cannot be found out: what came first is told


@contextmanager
def _samples_noted(prepared: Prepared, run: Run, generation: str) -> Iterator[None]:
    """Within the block each rank writes down which samples it uses, where that is wished."""
    if not prepared.training.watch.samples:
        yield
        return
    with SampleLog(run, prepared.group.rank, generation) as log:
        prepared.note = log
        try:
            yield
        finally:
            prepared.note = None


@contextmanager
def _recorder(prepared: Prepared, run: Run, writes: bool, show: Show | None) -> Iterator[Recorder]:
    before = list(steps(read_metrics(run.metrics_path))) if prepared.state.step else []
    with MetricsWriter(run.metrics_path) if writes else nullcontext() as writer:
        recorder = Recorder(prepared, writer, show, before)
        try:
            yield recorder
        finally:
            recorder.finish()


class Recorder:
    """Turns what happens into metric rows, holding a step back until its numbers have left the device.

    The summary goes on from the rows of the steps ``before``, those of earlier sittings.
    """

    def __init__(
        self, prepared: Prepared, writer: MetricsWriter | None, show: Show | None, before: Sequence[Row] = ()
    ) -> None:
        state = prepared.state
        self._prepared, self._writer, self._show = prepared, writer, show
        self._waiting: deque[Step] = deque()
        self._tokens = tokens_per_sample(prepared.training.data.train)
        self._sizes = _sizes(prepared)
        self._used = before[-1]["samples"] if before else state.samples
        self._taken: list[float] = []
        self._asked: tuple[float, int] | None = None
        self.summary: Row = {"parameters": state.held.parameters, "steps": state.step}
        for row in before:
            self._summarise(row)

    def __call__(self, record: Record) -> None:
        """Record one step, evaluation or checkpoint."""
        if isinstance(record, Step):
            self._waiting.append(record)
            if record.reading.immediate or len(self._waiting) > 1:
                self._write(self._step_row(self._waiting.popleft()))
        elif isinstance(record, Evaluated):
            self.settle()
            self._write(self._evaluation_row(record))
        elif isinstance(record, Saved) and self._writer is not None:
            emit("saved", f"checkpoint of step {record.step}", step=record.step, path=record.path.name)

    def add(self, rows: Sequence[Row]) -> None:
        """Record what was seen beside the steps."""
        for row in rows:
            self._write(row)

    def settle(self) -> None:
        """Write the steps that are still held back."""
        while self._waiting:
            self._write(self._step_row(self._waiting.popleft()))

    def finish(self) -> None:
        """Write what is held back and complete the summary."""
        self.settle()
        if self.step_seconds is not None:
            self.summary["step_seconds"] = self.step_seconds

    @property
    def step_seconds(self) -> float | None:
        """Median of all steps so far."""
        return statistics.median(self._taken) if self._taken else None

    def _write(self, row: Row) -> None:
        if self._writer is not None:
            self._writer.write(row)
        if self._show is not None:
            self._show(row)

    def flush(self) -> None:
        """Hand all rows to the operating system."""
        self.settle()
        if self._writer is not None:
            self._writer.flush()

    def _step_row(self, step: Step) -> Row:
        losses, first = step.losses, self._prepared.updates[0].name
        memory = self._peak(step)
        samples = step.samples
        if self._sizes is not None:
            self._used += self._sizes(step.samples - self._prepared.state.batch)
            samples = self._used
        row: Row = {
            "kind": "step",
            "step": step.number,
            "loss": step.loss(self._prepared.program.objective.coefficients),
            **({f"loss/{term}": value for term, value in losses.items()} if len(losses) > 1 else {}),
            **_by_update("learning_rate", step.learning_rates, first),
            **_by_update("gradient_norm", step.gradient_norms, first),
            "samples": samples,
            **({"tokens": samples * self._tokens} if self._tokens else {}),
            "time": time.time(),
            "seconds": step.seconds,
            "step_seconds": step.step_seconds,
            "memory_bytes": memory,
            "masked": step.masked,
        }
        self._summarise(row)
        return row

    def _peak(self, step: Step) -> int:
        """The peak so far; asking the system costs more than a small step, so it is asked every half second."""
        if not self._asked or step.seconds - self._asked[0] > 0.5:
            self._asked = (step.seconds, peak_bytes(self._prepared.program.device))
        return self._asked[1]

    def _summarise(self, row: Row) -> None:
        self._taken.append(row["step_seconds"])
        self.summary |= {
            "steps": row["step"],
            "samples": row["samples"],
            "seconds": row["seconds"],
            "loss": row["loss"],
            "peak_bytes": row["memory_bytes"],
        }
        if "tokens" in row:
            self.summary["tokens"] = row["tokens"]

    def _evaluation_row(self, record: Evaluated) -> Row:
        if record.whole:
            self.summary["held_out"] = record.scores
        return {
            "kind": "evaluation",
            "step": record.step,
            "time": time.time(),
            "seconds": self._prepared.state.seconds,
            **record.scores,
            "part": "held-out" if record.whole else "held-out-part",
        }


def _sizes(prepared: Prepared) -> StepSizes | None:
    """How many samples each step has; ``None`` where every position holds one."""
    training, positions = prepared.training, prepared.state.batch
    if positions == training.batch and not hasattr(training.data.train, "present"):
        return None
    return StepSizes(training.data.train, training.order, positions)


def _by_update(name: str, values: Mapping[str, float], first: str) -> Row:
    """The first update's number under the plain name, where it acted; those of further ones as ``NAME/UPDATE``."""
    return {name if update == first else f"{name}/{update}": value for update, value in values.items()}
