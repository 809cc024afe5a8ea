"""The sample log of a run: which samples each worker used in which step, written down before they are used.

``samples/rank-R.jsonl`` holds one line a step: ``{"step": n, "generation": text, "time": seconds since 1970, "indices":
[...]}``, handed to the operating system before the step is computed. A step that is done again after a kill stands
there again: of its generations the last one counts, as the work of the others is not in the weights. Which generation
came after which is seen from the order of the lines of rank 0, not from clocks: machines differ, and are set back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from modelwright.base.files import make_folder
from modelwright.runs import jsonlines
from modelwright.runs.directory import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Used:
    """The samples of one worker in one step.

    Attributes:
        rank: which worker.
        step: 1 for the first of the run.
        generation: name of the world it worked in; each start of the workers has its own.
        time: when, just before the step was computed; seconds since 1970.
        indices: into the training data, in order.
    """

    rank: int
    step: int
    generation: str
    time: float
    indices: tuple[int, ...]


class SampleLog:
    """Writes the log of one worker; as a loader's ``note`` it is called before each step.

    Args:
        run: whose samples.
        rank: of this worker.
        generation: name of the world that it works in, the same for all of its workers.

    Raises:
        ModelwrightError: the file cannot be written (from the constructor and when called).
    """

    def __init__(self, run: Run, rank: int, generation: str) -> None:
        make_folder(samples_folder(run))
        path = _path(run, rank)
        self._file = jsonlines.Appender(path)
        self._generation = generation
        if path.stat().st_size > jsonlines.whole_size(path):
            self._file.append(b"\n")  # ends a line torn by a kill; its step was never begun

    def __call__(self, number: int, indices: NDArray[np.int64]) -> None:
        """Write down the samples of the step ``number``, counted from 0."""
        row = {
            "step": number + 1,
            "generation": self._generation,
            "time": time.time(),
            "indices": indices.tolist(),
        }
        self._file.append(jsonlines.encode(row))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def samples_folder(run: Run) -> Path:
    """Where the logs of a run lie."""
    return run.path / "samples"


def read_samples(run: Run) -> list[Used]:
    """All lines of all workers, generation after generation, and within one by time; torn lines are left out.

    Generations follow one another as in the log of rank 0; one that it does not know, as it died before its first
    step, comes first.
    """
    paths = samples_folder(run).glob("rank-*.jsonl")
    found = [used for path in sorted(paths, key=_rank) for used in _lines(path)]
    begun = dict.fromkeys(used.generation for used in found if used.rank == 0)
    place = {generation: number for number, generation in enumerate(begun)}
    return sorted(found, key=lambda used: (place.get(used.generation, -1), used.time, used.rank))


def counted(lines: Sequence[Used], steps: int | None = None) -> dict[int, list[int]]:
    """The samples of each step, those of its last generation, rank after rank: what the weights have learnt from.

    A step that rank 0 did not begin was not computed by the others, either.

    Args:
        lines: of all workers, as :func:`read_samples` gives them.
        steps: how many the run has done; what was handed out beyond them, when it was stopped, is left out. ``None``
            counts it, too.
    """
    last = {used.step: used.generation for used in lines if used.rank == 0 and (steps is None or used.step <= steps)}
    parts = [used for used in lines if used.generation == last.get(used.step)]
    samples: dict[int, list[int]] = {step: [] for step in sorted(last)}
    for used in sorted(parts, key=lambda used: used.rank):
        samples[used.step].extend(used.indices)
    return samples


def _path(run: Run, rank: int) -> Path:
    return samples_folder(run) / f"rank-{rank}.jsonl"


def _rank(path: Path) -> int:
    return int(path.stem.removeprefix("rank-"))


def _lines(path: Path) -> list[Used]:
    rank = _rank(path)
    return [
        Used(
            rank=rank,
            step=int(row["step"]),
            generation=str(row["generation"]),
            time=float(row["time"]),
            indices=tuple(row["indices"]),
        )
        for row in jsonlines.read(path)
    ]
