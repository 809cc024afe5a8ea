"""Patterns of names of parameters and modules, as recipes give them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from modelwright.base.errors import ModelwrightError, nearest


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted name fits one of ``patterns``, as a whole or in one of its parts between the dots.

    ``decoder.3.*`` is compared with the whole name; ``head`` is in ``model.head.weight``, not in
    ``multihead_attn.out_proj.weight``.
    """
    parts = (name, *name.split("."))
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in parts)


def matching(names: Iterable[str], patterns: Iterable[str], where: str) -> list[str]:
    """The names that fit one of ``patterns``, in their order.

    Args:
        names: of parameters or modules.
        patterns: as of :func:`matches`.
        where: the field that holds the patterns, for messages.

    Raises:
        ModelwrightError: a pattern fits no name; one that does nothing is a slip.
    """
    known, wanted = list(names), list(patterns)
    for pattern in wanted:
        if not any(matches(name, [pattern]) for name in known):
            raise ModelwrightError(f"no name fits the pattern '{pattern}'", where=where, remedy=nearest(pattern, known))
    return [name for name in known if matches(name, wanted)]
