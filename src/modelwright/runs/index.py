"""The list of a folder's runs, kept in a SQLite file that can be rebuilt from the directories at any time."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.runs.directory import shown_status
from modelwright.runs.record import Record, read_record

FILE = "index.sqlite"
_VERSION = 1
_WAIT = 5.0  # seconds for another process to finish writing
_SCHEMA = "CREATE TABLE runs (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, record TEXT NOT NULL)"
_DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}

_Entries = dict[str, tuple[str, Record]]


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One line of a listing.

    Attributes:
        name: the directory's name in the folder.
        path: the directory.
        status: as recorded; ``interrupted`` where no process works on a running one, ``unreadable`` where
            the record is damaged or newer (``error`` says why).
        id, verb, created, ended, parent, summary, error: as in :class:`modelwright.runs.record.Record`.
    """

    name: str
    path: Path
    status: str
    id: str = ""
    verb: str = ""
    created: str = ""
    ended: str | None = None
    parent: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON-ready values."""
        return {**asdict(self), "path": str(self.path)}


def listing(folder: Path) -> list[RunRow]:
    """The runs of a folder, oldest first; only records that changed since the last listing are read.

    Where the index cannot be kept (a read-only folder) the directories are read, and an event says so.
    """
    if not folder.is_dir():
        return []
    known = _load(folder)
    entries, unreadable = _refresh(folder, known or {})
    if entries != known:
        _save(folder, entries)
    rows = [_row(folder, name, record) for name, (_, record) in entries.items()]
    return sorted([*rows, *unreadable], key=lambda row: (row.created, row.name))


def reindex(folder: Path) -> list[RunRow]:
    """Throw the index away and rebuild it from the directories alone."""
    _discard(folder)
    return listing(folder)


def _refresh(folder: Path, known: _Entries) -> tuple[_Entries, list[RunRow]]:
    entries: _Entries = {}
    unreadable = []
    for name, stamp in _stamps(folder).items():
        if name in known and known[name][0] == stamp:
            entries[name] = known[name]
            continue
        try:
            entries[name] = stamp, read_record(folder / name / "run.json")
        except ModelwrightError as error:
            unreadable.append(_unreadable(folder / name, error))
    return entries, unreadable


def _stamps(folder: Path) -> dict[str, str]:
    with os.scandir(folder) as entries:
        found = {entry.name: _stamp(entry.path) for entry in entries if not entry.name.startswith(".")}
    return {name: stamp for name, stamp in found.items() if stamp}


def _stamp(run: str) -> str:
    try:
        status = os.stat(os.path.join(run, "run.json"))  # noqa: PTH116, PTH118 - half the time of a Path
    except OSError:
        return ""
    return f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"


def _row(folder: Path, name: str, record: Record) -> RunRow:
    return RunRow(
        name=name,
        path=folder / name,
        status=shown_status(folder / name, record),
        id=record.id,
        verb=record.verb,
        created=record.created,
        ended=record.ended,
        parent=record.parent,
        summary=record.summary,
        error=record.error,
    )


def _unreadable(path: Path, error: ModelwrightError) -> RunRow:
    emit("run-unreadable", f"{path.name}: {error.what}", level="warning", path=str(path))
    return RunRow(name=path.name, path=path, status="unreadable", error=error.to_json())


def _load(folder: Path) -> _Entries | None:
    path = folder / FILE
    if not path.exists():
        emit("index-built", f"{path} is built from the runs themselves", path=str(path))
        return None
    try:
        return _read(path)
    except (sqlite3.DatabaseError, ValueError, ModelwrightError) as error:
        if isinstance(error, sqlite3.OperationalError) and _code(error) not in _DAMAGED:
            _tell_unusable(path, error)
            return None
        emit("index-rebuilt", f"{path} was damaged and is rebuilt: {error}", level="warning", path=str(path))
        _discard(folder)
        return None


def _read(path: Path) -> _Entries:
    with closing(_connect(path)) as database:
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            raise ValueError("it has another format")
        rows = database.execute("SELECT name, stamp, record FROM runs").fetchall()
    return {name: (stamp, Record.from_json(json.loads(record))) for name, stamp, record in rows}


def _save(folder: Path, entries: _Entries) -> None:
    path = folder / FILE
    try:
        with closing(_connect(path)) as database, database:
            database.execute("BEGIN IMMEDIATE")
            _rewrite(database, entries)
    except sqlite3.DatabaseError as error:
        _tell_unusable(path, error)


def _rewrite(database: sqlite3.Connection, entries: Mapping[str, tuple[str, Record]]) -> None:
    if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        database.execute("DROP TABLE IF EXISTS runs")
        database.execute(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_VERSION}")
    database.execute("DELETE FROM runs")
    database.executemany("INSERT INTO runs VALUES (?, ?, ?)", _values(entries))


def _values(entries: _Entries | Mapping[str, tuple[str, Record]]) -> Iterable[tuple[str, str, str]]:
    return ((name, stamp, json.dumps(record.to_json())) for name, (stamp, record) in sorted(entries.items()))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT)


def _discard(folder: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path = folder / f"{FILE}{suffix}"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _tell_unusable(path, error)


def _tell_unusable(path: Path, error: Exception) -> None:
    emit(
        "index-unusable",
        f"{path} cannot be used ({error}); the runs themselves are read instead",
        level="warning",
        path=str(path),
    )


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
