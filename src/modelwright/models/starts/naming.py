"""Names of tensors: chosen by patterns, and renamed from one model's manner to another's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.patterns import matches


def covered(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern fits a tensor's name or the name of a module around it: ``encoder.2`` covers all inside."""
    wanted = list(patterns)
    return any(matches(part, wanted) for part in (name, *owners(name)))


def owners(name: str) -> list[str]:
    """Names of the modules around a tensor, outermost first."""
    return list(accumulate(name.split(".")[:-1], "{}.{}".format))


def choose(names: Iterable[str], patterns: Iterable[str], where: str) -> list[str]:
    """The names that the patterns cover, in their order.

    Raises:
        ModelwrightError: a pattern covers none; the nearest name is told.
    """
    known, wanted = list(names), list(patterns)
    for pattern in wanted:
        if not any(covered(name, [pattern]) for name in known):
            modules = dict.fromkeys(owner for name in known for owner in owners(name))
            remedy = nearest(pattern, [*known, *modules])
            raise ModelwrightError(f"no name fits the pattern '{pattern}'", where=where, remedy=remedy)
    return [name for name in known if covered(name, wanted)]


def renamed(name: str, rules: Mapping[str, str]) -> str:
    """``name`` with its beginning replaced by the rule of the longest beginning that fits.

    A ``*`` in a beginning stands for one part between the dots, and is carried over to the ``*`` of the replacement.
    """
    for beginning in sorted(rules, key=len, reverse=True):
        found = re.match(re.escape(beginning).replace(r"\*", r"([^.]+)"), name)
        if found:
            return rules[beginning].replace("*", "{}").format(*found.groups()) + name[found.end() :]
    return name


def check_rules(rules: Mapping[str, str], where: str) -> None:
    """Refuse rules whose ``*`` do not pair up."""
    for beginning, replacement in rules.items():
        if replacement.count("*") > beginning.count("*"):
            raise ModelwrightError(
                f"'{replacement}' has more '*' than '{beginning}'", where=where, remedy="each '*' carries one part over"
            )
