"""Errors that speak to the user: what is wrong, where, and what to do.

Every error a user can cause is a :class:`ModelwrightError`. The command line prints it without a traceback and
leaves with its ``exit_code``; other exceptions are our own faults and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LISTED = 20


class ModelwrightError(Exception):
    """Something the user can mend.

    Args:
        what: what is wrong, one sentence.
        where: the place: ``file:line``, field, rank, path.
        remedy: what to do about it, one sentence or command.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  to do: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.to_json())

    def to_json(self) -> dict[str, str]:
        """The error as plain strings, for a file or ``--json``."""
        return {"what": self.what, "where": self.where, "remedy": self.remedy}


class Mistakes(ModelwrightError):
    """Several mistakes found in one go, so that the user mends them in one go."""

    def __init__(self, errors: Sequence[ModelwrightError]) -> None:
        self.errors = list(errors)
        count = len(self.errors)
        super().__init__(f"{count} mistakes were found" if count != 1 else self.errors[0].what)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    def __reduce__(self) -> tuple[object, ...]:
        return Mistakes, (self.errors,)

    def to_json(self) -> dict[str, str]:
        """The mistakes joined into the fields of one error."""
        return {"what": str(self), "where": "", "remedy": ""}


class RunFailed(ModelwrightError):
    """The run began and could not go on: a worker died, the loss diverged, the disk filled up."""

    exit_code = 3


class Stopped(ModelwrightError):
    """A signal asked for a stop; everything is saved and can go on.

    Args:
        signal: its number; the exit code is 128 more, as shells have it.
    """

    def __init__(self, what: str, *, signal: int, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.exit_code = 128 + signal


class MissingExtra(ModelwrightError):
    """An optional part is not installed."""

    def __init__(self, extra: str, need: str) -> None:
        super().__init__(
            f"{need} needs an optional part that is not installed",
            remedy=f"pip install 'modelwright[{extra}]'",
        )
        self.extra = extra
        self.need = need

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtra, (self.extra, self.need)


def raise_all(errors: Sequence[ModelwrightError]) -> None:
    """Raise nothing, the only error, or all of them together."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Mistakes(errors)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the most similar of ``known``, or lists them: ``did you mean 'lr'?``"""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return f"known: {listed}" if names else ""


def _restore(kind: type[ModelwrightError], fields: dict[str, str]) -> ModelwrightError:
    error = kind.__new__(kind)
    ModelwrightError.__init__(error, **fields)
    return error
