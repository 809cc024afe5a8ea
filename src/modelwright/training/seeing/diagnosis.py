"""Diagnosis of a step that was left out: it is replayed, and the first place, rank and samples are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from modelwright.training.prepared import Prepared
from modelwright.training.seeing.probing import Seen, finite, probe
from modelwright.training.seeing.replay import MicroBatch, micro_batches, rewound

Stage = Literal["weights", "forward", "loss", "backward", "replay"]
MOST_PROBES = 256  # forwards (and backwards) spent on finding the samples of one micro-batch
MOST_NAMED = 16  # samples named in a sentence


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rank found.

    Attributes:
        rank: which one.
        stage: ``weights`` (a parameter or buffer is not finite already), ``forward``, ``loss`` (of finite outputs),
            ``backward``, or ``replay``, which then failed.
        name: of the tensor, module, term or parameter that is the first; what went wrong with the replay.
        kind: class of the module.
        input_finite: whether the module's input was finite.
        parameter: the first whose gradient is not finite.
        micro_batch: which of this rank's.
        positions, samples: of the offending samples: places in the order, indices in the data set.
        isolated: whether they offend by themselves; if not, they are all samples of the micro-batch.
        fields: fields of the batch that are not finite themselves.
    """

    rank: int
    stage: Stage
    name: str
    kind: str = ""
    input_finite: bool = True
    parameter: str = ""
    micro_batch: int = 0
    positions: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    isolated: bool = False
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"rank {self.rank}: {_TOLD[self.stage](self)}{_of_samples(self)}"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What became of a step.

    Attributes:
        step: its number.
        findings: of the ranks that found something, by rank.
        exact: whether the weights were still those of the step; if not, they are of one update later.
    """

    step: int
    findings: tuple[Finding, ...]
    exact: bool = True

    @property
    def what(self) -> str:
        """The account, in a sentence or two."""
        if not self.findings:
            return (
                f"step {self.step} was replayed on every rank and is finite there: either the gradients overflow only "
                "in their sum, or the model draws random numbers of its own"
            )
        later = "" if self.exact else " (replayed with weights that are one update later)"
        return f"step {self.step}{later}: " + "; ".join(str(finding) for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values."""
        return {"kind": "non-finite", "what": self.what, **asdict(self)}


def diagnose(prepared: Prepared, step: int, *, scale: float = 1.0, exact: bool = True) -> Diagnosis:
    """Replay a step that was left out, and find what was not finite; a collective, entered by every rank.

    Weights, moments, buffers, gradients, random numbers and the place in the data are afterwards as they were. The
    data set is read in this thread while the loader's reads ahead.

    Args:
        prepared: the training, between two steps.
        step: number of the step, 1 for the first.
        scale: of the loss in that step.
        exact: whether the weights are still those that the step had.
    """
    group = prepared.group
    with rewound(prepared, step):
        prepared.state.seed_step(group.rank)
        parts, failure = _attempt(lambda: micro_batches(prepared))
        counts, failed = _attempt(lambda: _counts(prepared, parts or []))
        everywhere = _summed(group.gather(counts or {}))
        found, lost = _attempt(lambda: _find(prepared, parts or [], everywhere, scale))
    finding = found or _unreplayed(group.rank, failure or failed or lost)
    gathered = group.gather({} if finding is None else asdict(finding))
    return Diagnosis(step=step, findings=tuple(_restored(entry) for entry in gathered if entry), exact=exact)


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """The result, or what went wrong: the other ranks wait for this one's word in any case."""
    try:
        return work(), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _counts(prepared: Prepared, parts: Sequence[MicroBatch]) -> dict[str, float]:
    counts = prepared.program.counts([part.batch for part in parts])
    return {term: float(count) for term, count in counts.items()}


def _summed(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    terms = sorted({term for each in counts for term in each})
    return {term: sum(each.get(term, 0.0) for each in counts) for term in terms}


def _find(prepared: Prepared, parts: Sequence[MicroBatch], counts: Mapping[str, float], scale: float) -> Finding | None:
    rank, program = prepared.group.rank, prepared.program
    if (bad := _bad_weights(prepared)) is not None:
        return Finding(rank=rank, stage="weights", name=bad)
    for part in parts:
        seen = probe(program, part.batch, counts, scale=scale)
        if seen.bad:
            return _finding(prepared, part, seen, counts, scale)
    return None


def _bad_weights(prepared: Prepared) -> str | None:
    model = prepared.program.model
    for name, parameter in model.named_parameters():
        if not finite(parameter):
            return name
    # A mask among the buffers may hold infinities on purpose.
    return next((name for name, buffer in model.named_buffers() if torch.isnan(buffer).any()), None)


def _finding(prepared: Prepared, part: MicroBatch, seen: Seen, counts: Mapping[str, float], scale: float) -> Finding:
    def look(rows: list[int]) -> Seen:
        prepared.state.seed_step(prepared.group.rank)
        backward = not seen.terms
        return probe(prepared.program, part.rows(rows), counts, scale=scale, backward=backward)

    def offends(rows: list[int]) -> bool:
        return bool(_attempt(lambda: look(rows).bad)[0])

    everyone = list(range(len(part)))
    rows = offenders(offends, everyone)
    healthy = [row for row in everyone if row not in rows] if rows else []
    usual = _attempt(lambda: look(healthy).modules)[0] if healthy else None
    named = rows or everyone
    return replace(
        _first(prepared, seen, usual or {}),
        micro_batch=part.number,
        positions=tuple(int(part.positions[row]) for row in named),
        samples=tuple(int(part.samples[row]) for row in named),
        isolated=bool(rows),
        fields=tuple(name for name, value in part.rows(named).items() if not finite(value)),
    )


def offenders(offends: Callable[[list[int]], bool], rows: list[int]) -> list[int]:
    """The rows that offend by themselves, by halving; none where only their company does.

    Args:
        offends: whether some rows, alone, do; asked at most ``MOST_PROBES`` times.
        rows: that do together.
    """
    left = [MOST_PROBES]

    def halved(rows: list[int]) -> Iterator[int]:
        if len(rows) == 1:
            yield from rows
            return
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            left[0] -= 1
            if left[0] >= 0 and offends(half):
                yield from halved(half)

    return list(halved(rows)) if len(rows) > 1 or offends(rows) else []


def _first(prepared: Prepared, seen: Seen, usual: Mapping[str, bool]) -> Finding:
    """The first place that is not as it is with healthy samples: a mask may hold infinities on purpose."""
    rank, modules = prepared.group.rank, [name for name in seen.modules if name not in usual]
    if modules:
        name = modules[0]
        return Finding(
            rank=rank,
            stage="forward",
            name=name,
            kind=_kind(prepared, name),
            input_finite=seen.modules[name],
            parameter="" if seen.terms else seen.parameters[0],
        )
    if seen.terms:
        return Finding(rank=rank, stage="loss", name=seen.terms[0])
    name = seen.gradients[0] if seen.gradients else ""
    kind = _kind(prepared, name) if seen.gradients else ""
    return Finding(rank=rank, stage="backward", name=name, kind=kind, parameter=seen.parameters[0])


def _kind(prepared: Prepared, name: str) -> str:
    return type(prepared.program.model.get_submodule(name)).__name__


def _unreplayed(rank: int, failure: str) -> Finding | None:
    return Finding(rank=rank, stage="replay", name=failure) if failure else None


def _restored(entry: Mapping[str, Any]) -> Finding:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Finding(**values)


def _module(name: str) -> str:
    return f"module '{name}'" if name else "the model as a whole"


def _forward(found: Finding) -> str:
    inputs = "whose input is finite" if found.input_finite else "whose input is not finite either"
    hidden = f"; the loss is finite all the same, the gradient of '{found.parameter}' is not" if found.parameter else ""
    return f"the first output that is not finite is that of {_module(found.name)} ({found.kind}), {inputs}{hidden}"


def _backward(found: Finding) -> str:
    place = f", behind the output of {_module(found.name)} ({found.kind})" if found.kind else ""
    return f"outputs and loss are finite; the first gradient that is not is that of '{found.parameter}'{place}"


_TOLD: dict[str, Callable[[Finding], str]] = {
    "weights": lambda found: f"'{found.name}' was not finite before the step",
    "forward": _forward,
    "loss": lambda found: f"the outputs are finite, the loss term '{found.name}' of them is not",
    "backward": _backward,
    "replay": lambda found: f"the step could not be replayed: {found.name}",
}


def _of_samples(found: Finding) -> str:
    if not found.samples:
        return ""
    fields = f", with numbers in {', '.join(found.fields)} that are not finite" if found.fields else ""
    one = len(found.samples) == 1
    if not found.isolated:
        return f"; micro-batch {found.micro_batch}; no sample of it does that alone{fields}"
    samples, positions = (_listed(values) for values in (found.samples, found.positions))
    plural = "" if one else "s"
    return (
        f"; micro-batch {found.micro_batch}, sample{plural} {samples} of the data (position{plural} {positions} of the "
        f"order){fields}"
    )


def _listed(values: Sequence[int]) -> str:
    rest = len(values) - MOST_NAMED
    return ", ".join(map(str, values[:MOST_NAMED])) + (f" and {rest} more" if rest > 0 else "")
