"""The record of a run: what :file:`run.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json

FORMAT = 1

Status = Literal["created", "running", "finished", "stopped", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a run as a whole.

    Attributes:
        id: 32 hexadecimal digits, kept when the directory is copied or renamed.
        name: the directory's name when it was made.
        verb: what it does, such as ``train``.
        status: ``created``, ``running``, ``finished``, ``stopped`` or ``failed``.
        created, ended: ISO 8601 in UTC.
        parent: id of the run it goes out from.
        parent_path: where that run lay, relative to this one where they share a folder.
        parent_step: of its checkpoint that this run branched off from.
        parent_hash: SHA-256 of that checkpoint's manifest, which has the hash of every file in it.
        modelwright: version that made the run.
        origin: signature of the recipe; see :mod:`modelwright.runs.origin`.
        recipes: hashes of what the recipes say that the run has written.
        process: the process that works on it; see :mod:`modelwright.runs.process`.
        summary: result values by name; NaN and infinities as words.
        error: ``what``, ``where`` and ``remedy`` of what ended it.
    """

    id: str
    name: str
    verb: str
    status: Status = "created"
    created: str
    ended: str | None = None
    parent: str | None = None
    parent_path: str | None = None
    parent_step: int | None = None
    parent_hash: str | None = None
    modelwright: str = ""
    origin: str = ""
    recipes: list[str] = field(default_factory=list)
    process: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "") -> Record:
        """The record back from :meth:`to_json`; fields it does not know are left out.

        Raises:
            ModelwrightError: written by a newer version, or no record of a run.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("format"), int):
            raise _not_a_record(where)
        if values["format"] > FORMAT:
            raise ModelwrightError(
                f"this run was written by a newer modelwright (format {values['format']}, known: {FORMAT})",
                where=where,
                remedy="upgrade: pip install -U modelwright",
            )
        try:
            record = cls(**{name: values[name] for name in _FIELDS if name in values})
        except TypeError as error:
            raise _not_a_record(where) from error
        if not record._is_sound():
            raise _not_a_record(where)
        return record

    def _is_sound(self) -> bool:
        texts = (self.id, self.name, self.verb, self.created)
        return (
            all(isinstance(text, str) for text in texts)
            and self.status in STATUSES
            and isinstance(self.summary, dict)
            and isinstance(self.process, dict)
        )


_FIELDS = tuple(entry.name for entry in fields(Record))


def read_record(path: Path) -> Record:
    """Read a :file:`run.json`.

    Raises:
        ModelwrightError: missing, unreadable, damaged or newer.
    """
    try:
        values = read_json(path)
    except OSError as error:
        raise ModelwrightError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    return Record.from_json(values, where=str(path))


def now() -> str:
    """The time as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _not_a_record(where: str) -> ModelwrightError:
    return ModelwrightError(
        "this is not the record of a run",
        where=where,
        remedy="restore run.json from a copy, or remove the folder",
    )
