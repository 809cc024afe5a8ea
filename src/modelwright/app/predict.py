"""The verb ``predict``: what a trained model says about each sample of a file, or of the held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count as numbers
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from modelwright.app.evaluate import MICRO_BATCH
from modelwright.app.rows.described import describe, scored
from modelwright.app.rows.files import Row, row_file
from modelwright.app.rows.progress import counting
from modelwright.app.rows.samples import file_batches, files_in, held_out_batches, samples_in
from modelwright.app.trained import open_trained
from modelwright.app.trust import check_trust
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Splits
from modelwright.data.batches import read
from modelwright.data.memory import splits_of
from modelwright.models.modes import evaluating
from modelwright.objectives import Objective
from modelwright.objectives.binary import Binary
from modelwright.objectives.calling import logits_of
from modelwright.objectives.classification import Classification
from modelwright.objectives.fields import IGNORED, field
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression
from modelwright.objectives.sequence_to_sequence import SequenceToSequence
from modelwright.parallel.program import LocalProgram
from modelwright.recipe import load_recipe
from modelwright.recipe.own import build_objective
from modelwright.runs import Run
from modelwright.training.training import Training

if TYPE_CHECKING:
    from modelwright.data import Batch

_KINDS = (".jsonl", ".csv", ".parquet")


def predict(
    model: nn.Module | Run | str | Path,
    data: Any = None,
    *,
    objective: Objective | None = None,
    micro_batch: int = MICRO_BATCH,
    precision: str = "fp32",
    folder: Path | str = "runs",
    trust: bool = False,
) -> Any:
    """The outputs of a model for each sample, in order, computed in micro-batches in evaluation mode.

    Args:
        model: a module; or a run, its name in ``folder``, or its path: then its newest weights are taken, with
            its objective and the precision and micro-batch of its plan.
        data: as for :func:`modelwright.train`; ``None``: what the run holds out.
        objective: what calls the module; ``None``: it is called with the ``inputs`` of a batch.
        micro_batch: samples at once.
        precision: in which to compute.
        folder: where runs lie.
        trust: run the foreign code that a run from elsewhere names.

    Returns:
        Outputs ``[samples, ...]`` on the CPU; a list of one for each batch where they are no tensors.

    Raises:
        ModelwrightError: no such run, no weights yet, or no samples.
    """
    if not isinstance(model, nn.Module):
        return _outputs_of_run(model, data, Path(folder), trust)
    if data is None:
        raise ModelwrightError("there are no samples to predict for", where="data", remedy="pass data")
    called = cast(Objective, objective or _Call())
    program = LocalProgram(model, called, device=torch.device(detect().device), precision=precision)
    batches = held_out_batches(splits_of(data).train, micro_batch)
    return _together(outputs for _, outputs in _forward(program, batches))


def predict_file(
    name: str,
    file: Path | None,
    out: Path | None,
    *,
    folder: Path,
    console: Console,
    append: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write what a run's model says about each sample, in their order, as they are computed.

    Args:
        name: of the run.
        file: samples, see :func:`~modelwright.app.rows.samples.file_batches`; ``None``: what the run holds out.
        out: where rows go; ``None``: to standard output, as JSON lines.
        folder: where runs lie.
        console: where to show progress.
        append: go on behind the rows that ``out`` holds.
        trust: run the foreign code that a run from elsewhere names.

    Returns:
        ``rows`` that were written now, and ``out``.

    Raises:
        ModelwrightError: no such run, no weights yet, or a file cannot be read or written.
    """
    run = Run.open(name, folder)
    training = _opened(run, file, trust)
    size = _micro_batch(run)
    batches, total = _batches(training, run, file, size)
    rows = _rows(_program(training, run), batches, training.data)
    if file is not None and (files := files_in(file, training.data)) is not None:
        rows = ({"file": str(path)} | row for path, row in zip(files, rows, strict=True))
    with row_file(out, _KINDS, append=append) as writer, counting(console, "predict", total, writer.done) as count:
        written = 0
        for part in _parts(rows, size):
            fresh = [row for row in part if row["row"] >= writer.done]
            writer.write(fresh)
            count(len(fresh))
            written += len(fresh)
    return {"rows": written, "out": None if out is None else str(out)}


def _rows(program: LocalProgram, batches: Iterable[Batch], data: Splits) -> Iterator[Row]:
    said = (
        row
        for batch, outputs in _forward(program, (_with_targets(batch, program.objective, data) for batch in batches))
        for row in describe(program.objective, outputs, batch, data)
    )
    told = scored(said) if isinstance(program.objective, (NextToken, SequenceToSequence)) else said
    return ({"row": number} | row for number, row in zip(numbers(), told, strict=False))


def _forward(program: LocalProgram, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
    """Pairs of a batch and what the model says, both on the device."""
    with evaluating(program.model):
        for batch in batches:
            with torch.no_grad():
                placed = program.place(batch)
                yield placed, program.forward(placed)


def _with_targets(batch: Batch, objective: Objective, data: Splits) -> Batch:
    """Objectives compare shapes with those of the targets, which new samples lack."""
    name = getattr(objective, "target", "targets")
    if name in batch:
        return batch
    samples = len(next(iter(batch.values())))
    if isinstance(objective, Classification):
        return batch | {name: torch.full((samples,), IGNORED)}
    width = data.facts.get("classes", 1)
    shape = (samples,) if width == 1 else (samples, width)
    if isinstance(objective, Binary):
        return batch | {name: torch.full(shape, IGNORED)}
    return batch | {name: torch.full(shape, torch.nan)} if isinstance(objective, Regression) else batch


def _opened(run: Run, file: Path | None, trust: bool) -> Training:
    """The run's training; a language model reads a file without the data it was trained on."""
    check_trust(run, trust)
    alone = file is not None and isinstance(build_objective(load_recipe(run.recipe_path)), NextToken)
    training, _ = open_trained(run, trust=trust, with_data=not alone)
    return training


def _batches(training: Training, run: Run, file: Path | None, size: int) -> tuple[Iterator[Batch], int | None]:
    if file is None:
        dataset = _held_out(training, run)
        return held_out_batches(dataset, size), len(dataset)
    text = isinstance(training.objective, NextToken)
    context = int(read(training.data.train, [0])["inputs"].shape[1]) if text else None
    return file_batches(file, size, training.objective, training.data, context), samples_in(file, training.data)


def _held_out(training: Training, run: Run) -> Dataset:
    if training.data.held_out is None:
        raise ModelwrightError(
            "nothing is held out", where=str(run.recipe_path), remedy="name a file of samples with --file"
        )
    return training.data.held_out


def _outputs_of_run(name: Run | str | Path, data: Any, folder: Path, trust: bool) -> Any:
    run = name if isinstance(name, Run) else Run.open(str(name), folder)
    training, _ = open_trained(run, trust=trust)
    dataset = _held_out(training, run) if data is None else splits_of(data).train
    program = _program(training, run)
    batches = held_out_batches(dataset, _micro_batch(run))
    filled = (_with_targets(batch, training.objective, training.data) for batch in batches)
    return _together(outputs for _, outputs in _forward(program, filled))


def _program(training: Training, run: Run) -> LocalProgram:
    plan = run.plan()
    device = torch.device(detect().device)
    precision = plan.precision if plan else "fp32"
    return LocalProgram(training.model, training.objective, device=device, precision=precision)


def _micro_batch(run: Run) -> int:
    plan = run.plan()
    return plan.micro_batch if plan else MICRO_BATCH


def _together(outputs: Iterable[Any]) -> Any:
    parts = [part.cpu() if isinstance(part, Tensor) else part for part in map(logits_of, outputs)]
    if not parts:
        raise ModelwrightError("there are no samples to predict for", where="data")
    return torch.cat(parts) if all(isinstance(part, Tensor) and part.dim() > 0 for part in parts) else parts


def _parts(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


class _Call:
    """Calls a module with the inputs of a batch."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        return model(field(batch, "inputs", "call of the model"))
