"""Weights that do not fit a model: what differs, and what would make them fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from modelwright.models.source import fill_twins
from modelwright.models.starts.naming import covered, owners, renamed

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_MOST_RULES = 8


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How a file's tensors differ from a model's.

    Attributes:
        missing: names of the model that the file lacks.
        unexpected: names of the file that the model lacks.
        reshaped: names of both -> shape in the file, shape in the model.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[Shape, Shape]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)


@dataclass(frozen=True, kw_only=True)
class Cure:
    """Fields of a start with which a file fits; empty where none are needed.

    Attributes:
        rename: beginnings of names in the file -> in the model.
        drop: patterns of what to leave in the file.
        allow_missing: whether tensors of the model remain that the file has under no name.
    """

    rename: dict[str, str] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    allow_missing: bool = False


def differences(own: Shapes, saved: Shapes) -> Differences:
    """Compare names and shapes."""
    return Differences(
        missing=[name for name in own if name not in saved],
        unexpected=[name for name in saved if name not in own],
        reshaped={name: (saved[name], shape) for name, shape in own.items() if name in saved and saved[name] != shape},
    )


def cure(own: Shapes, saved: Shapes, tied: Mapping[str, str]) -> Cure | None:
    """What to write so that a file fits; ``None`` where less than half of the model would come from it.

    Args:
        own: of the model.
        saved: of the file.
        tied: names of the model that are the same tensor as another, which the file may name once.
    """
    rename = infer_renames(own, saved)
    after = {renamed(name, rename): shape for name, shape in saved.items()}
    fill_twins(tied, after)
    left = differences(own, after)
    fitting = len(own) - len(left.missing) - len(left.reshaped)
    if 2 * fitting < len(own):
        return None
    modules = dict.fromkeys(name.rpartition(".")[0] or name for name in left.reshaped)
    drop = [*modules, *_superfluous(own, left.unexpected)]
    return Cure(rename=rename, drop=drop, allow_missing=any(not covered(name, drop) for name in left.missing))


def infer_renames(own: Shapes, saved: Shapes) -> dict[str, str]:
    """Rules for :func:`~modelwright.models.starts.naming.renamed`: beginnings that differ, with shapes that agree."""
    missing = {name: shape for name, shape in own.items() if name not in saved}
    rest = {name: shape for name, shape in saved.items() if name not in own}
    rules: dict[str, str] = {}
    while missing and rest and len(rules) < _MOST_RULES:
        rule = _best_rule(missing, rest)
        if rule is None:
            break
        hits = {name: _moved(name, rule) for name in rest if name.startswith(rule[0])}
        hits = {name: new for name, new in hits.items() if missing.get(new) == rest[name]}
        rules |= _precise(rule, hits)
        missing = {name: shape for name, shape in missing.items() if name not in hits.values()}
        rest = {name: shape for name, shape in rest.items() if name not in hits}
    return rules


def common_beginning(names: Iterable[str]) -> str:
    """The first part that all names share, with its dot; empty where there is none."""
    firsts = {"".join(name.partition(".")[:2]) for name in names}
    first = firsts.pop() if len(firsts) == 1 else ""
    return first if first.endswith(".") else ""


def _best_rule(missing: Shapes, rest: Shapes) -> tuple[str, str] | None:
    """The rule that fits the most names: at least two, or the only one there is, and half of those it touches."""
    best, most = None, 0
    for rule, _ in Counter(_candidates(missing, rest)).most_common(20):
        touched = [name for name in rest if name.startswith(rule[0])]
        hits = sum(missing.get(_moved(name, rule)) == rest[name] for name in touched)
        if hits > most and 2 * hits >= len(touched) and (hits > 1 or len(rest) == 1):
            best, most = rule, hits
    return best


def _candidates(missing: Shapes, rest: Shapes) -> Iterator[tuple[str, str]]:
    """For each name of the file the beginnings that differ from the names whose ends agree longest."""
    by_end: dict[str, list[str]] = {}
    for name in missing:
        for end in _ends(name):
            by_end.setdefault(end, []).append(name)
    for name, shape in rest.items():
        for end in _ends(name):
            twins = [twin for twin in by_end.get(end, ()) if missing[twin] == shape]
            if twins:
                yield from ((name.removesuffix(end), twin.removesuffix(end)) for twin in twins[:8])
                break


def _ends(name: str) -> Iterator[str]:
    """``a.b.c``, ``b.c``, ``c``."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _moved(name: str, rule: tuple[str, str]) -> str:
    return rule[1] + name.removeprefix(rule[0])


def _precise(rule: tuple[str, str], hits: Mapping[str, str]) -> dict[str, str]:
    """An empty beginning would touch every name of the file: then one rule for each first part."""
    if rule[0]:
        return {rule[0]: rule[1]}
    firsts = dict.fromkeys(first + dot for first, dot, _ in (name.partition(".") for name in hits))
    return {first: rule[1] + first for first in firsts}


def _superfluous(own: Shapes, names: Sequence[str]) -> list[str]:
    """Short patterns for names that the model lacks, which cover nothing that it has."""
    patterns: list[str] = []
    for name in names:
        if covered(name, patterns):
            continue
        options = [*(part for part in name.split(".") if not part.isdigit()), *owners(name), name]
        harmless = (option for option in options if not any(covered(mine, [option]) for mine in own))
        patterns.append(next(harmless, name))
    return patterns
