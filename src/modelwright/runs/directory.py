"""A run is a directory of plain files that is the whole truth and can be copied anywhere."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.files import make_folder, read_json, speaking, write_json, write_text
from modelwright.base.plan import Plan
from modelwright.runs import origin
from modelwright.runs.environment import environment, package_version
from modelwright.runs.names import check_name, fresh_name
from modelwright.runs.plain import plain
from modelwright.runs.process import is_alive, this_process
from modelwright.runs.record import Record, Status, now, read_record
from modelwright.runs.scrub import scrub

_ENDED = ("finished", "stopped", "failed")
_SILENT_SECONDS = 600.0
_updating = threading.Lock()


class Run:
    """One run. Nothing is held in memory: every answer is read from its files.

    One process writes a run's record at a time; any number may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, folder: Path, name: str | None, verb: str, parent: Run | None = None) -> Run:
        """Make the directory of a new run in ``folder``.

        Raises:
            ModelwrightError: the name is taken or cannot be one; no permission; disk full.
        """
        name = fresh_name(verb) if name is None else name
        check_name(name)
        make_folder(folder)
        run = cls(folder / name)
        _claim(run.path)
        try:
            run._furnish(verb, parent)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)  # a name is not used up by a run that was never made
            raise
        return run

    @classmethod
    def open(cls, path_or_name: str | Path, folder: Path = Path("runs")) -> Run:
        """The run of that name in ``folder``, or at that path.

        Raises:
            ModelwrightError: there is none, it is no run, or a newer version wrote it.
        """
        path = named(_find(path_or_name, folder))
        if not (path / "run.json").is_file():
            raise ModelwrightError(
                "this folder is not a run: it has no run.json",
                where=str(path),
                remedy="see what there is: modelwright runs list",
            )
        run = cls(path)
        _ = run.record
        return run

    @property
    def record(self) -> Record:
        """What :file:`run.json` says now."""
        return read_record(self.path / "run.json")

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name or self.path.resolve().name

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def plan_path(self) -> Path:
        """The newest plan."""
        return self.path / "plan.json"

    @property
    def environment_path(self) -> Path:
        """What it ran on and in."""
        return self.path / "env.json"

    @property
    def metrics_path(self) -> Path:
        """Rows of steps and evaluations."""
        return self.path / "metrics.jsonl"

    @property
    def events_path(self) -> Path:
        """What was skipped, refused, replaced or changed."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Folder of what the run made."""
        return self.path / "artifacts"

    @property
    def logs(self) -> Path:
        """Folder of what the processes printed."""
        return self.path / "logs"

    @property
    def report_path(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def update(
        self,
        *,
        status: Status | None = None,
        summary: Mapping[str, Any] | None = None,
        error: ModelwrightError | None = None,
    ) -> Record:
        """Change the record, atomically; ``summary`` is merged into what is there.

        ``running`` notes this process as the one at work; the other statuses but ``created`` note the end.

        Raises:
            ModelwrightError: the record cannot be written.
        """
        with _updating:
            record = self.record
            if status is not None:
                record = _with_status(record, status)
            if summary:
                record = replace(record, summary={**record.summary, **plain(summary)})
            if error is not None:
                record = replace(record, error=scrub(error.to_json()))
            self._write_record(record)
        return record

    def alive(self) -> bool:
        """Whether a process works on the run.

        From another machine that cannot be seen: changed in the last ten minutes counts as alive.
        """
        return record_alive(self.path, self.record)

    def status(self) -> str:
        """The record's status, or ``interrupted`` where it says ``running`` and no process works on it."""
        return shown_status(self.path, self.record)

    def branched(self, step: int, checkpoint: str) -> Record:
        """Note from which checkpoint of its parent the run branches off: the step, and the hash of the manifest."""
        with _updating:
            record = replace(self.record, parent_step=step, parent_hash=checkpoint)
            self._write_record(record)
        return record

    def write_recipe(self, text: str) -> None:
        """Write the resolved recipe and sign it as this user's own."""
        self._note_recipe(text)
        write_text(self.recipe_path, text)
        with _updating:
            self._write_record(replace(self.record, origin=origin.sign(text)))

    def revise_recipe(self, text: str) -> None:
        """Write another recipe; the older one is kept as :file:`recipe-N.yaml`.

        One that came from elsewhere stays so: it is signed only where the older one was this user's own.
        """
        old, ours = self.recipe(), self.ours()
        if text == old:
            return
        numbers = [int(name) for path in self.path.glob("recipe-*.yaml") if (name := path.stem[7:]).isdecimal()]
        write_text(self.path / f"recipe-{max(numbers, default=0) + 1}.yaml", old)
        if ours:
            self.write_recipe(text)
        else:
            self._note_recipe(text)
            write_text(self.recipe_path, text)

    def edited(self) -> bool:
        """Whether somebody else has changed what the recipe says since the run wrote it."""
        known = self.record.recipes
        return bool(known) and origin.meaning(self.recipe()) not in known

    def recipe(self) -> str:
        """The text of the recipe; ``""`` where none was written."""
        return _text(self.recipe_path)

    def ours(self) -> bool:
        """Whether this user wrote the recipe as it stands. If not, foreign classes in it need ``--trust``."""
        return origin.ours(self.recipe(), self.record.origin)

    def write_plan(self, plan: Plan) -> Plan:
        """Write a plan and return it as numbered; an older one is kept as :file:`plan-N.json`."""
        old = self.plan()
        if old is not None:
            plan = replace(plan, number=old.number) if _same(plan, old) else self._next(plan, old)
        write_json(self.plan_path, plain(plan.to_json()))
        return plan

    def plan(self) -> Plan | None:
        """The newest plan; ``None`` before the first."""
        if not self.plan_path.exists():
            return None
        return Plan.from_json(read_json(self.plan_path), where=str(self.plan_path))

    def write_environment(self, **facts: Any) -> None:
        """Record what it runs on and in, without secrets; ``facts`` are added."""
        write_json(self.environment_path, plain(environment(**facts)))

    def environment(self) -> dict[str, Any]:
        """What was recorded; empty where nothing was."""
        recorded = read_json(self.environment_path) if self.environment_path.exists() else {}
        return recorded if isinstance(recorded, dict) else {}

    def parent(self) -> Run | None:
        """The run it goes out from, where it still lies there."""
        record = self.record
        if not record.parent or not record.parent_path:
            return None
        candidate = Run(Path(os.path.normpath(self.path / record.parent_path)))
        try:
            return candidate if candidate.record.id == record.parent else None
        except ModelwrightError:
            return None

    def lineage(self) -> list[Run]:
        """Its parent, the parent of that and so on, as far as they still lie there; nearest first."""
        found: list[Run] = []
        run, seen = self.parent(), {self.record.id}
        while run is not None and run.record.id not in seen:
            seen.add(run.record.id)
            found.append(run)
            run = run.parent()
        return found

    def _furnish(self, verb: str, parent: Run | None) -> None:
        for part in (self.checkpoints, self.artifacts, self.logs):
            make_folder(part)
        self._write_record(_first_record(self, verb, parent))

    def _next(self, plan: Plan, old: Plan) -> Plan:
        # The older plan is written under its number first: a kill in between loses neither.
        write_json(self.path / f"plan-{old.number}.json", plain(old.to_json()))
        return replace(plan, number=old.number + 1)

    def _note_recipe(self, text: str) -> None:
        """Note a recipe before it is written: a kill in between leaves one that is known."""
        with _updating:
            record, known = self.record, list(self.record.recipes)
            if not known and (earlier := self.recipe()):  # of a version that noted none
                known.append(origin.meaning(earlier))
            if (meaning := origin.meaning(text)) not in known:
                self._write_record(replace(record, recipes=[*known, meaning]))

    def _write_record(self, record: Record) -> None:
        write_json(self.path / "run.json", plain(record.to_json()))


def shown_status(path: Path, record: Record) -> str:
    """The status to show for a record that lies in ``path``."""
    if record.status == "running" and not record_alive(path, record):
        return "interrupted"
    return record.status


def record_alive(path: Path, record: Record) -> bool:
    """Whether a process works on the run in ``path``; see :meth:`Run.alive`."""
    if record.status in _ENDED or not record.process:
        return False
    seen = is_alive(record.process)
    return _changed_lately(path) if seen is None else seen


def named(path: Path) -> Path:
    """The path by its name, where it ends in ``.`` or ``..``."""
    return path if path.name not in ("", "..") else path.resolve()


def names_in(folder: Path) -> list[str]:
    """Names of the runs in a folder, sorted; hidden folders are none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_run(entry))


def _is_run(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and Path(entry.path, "run.json").is_file()


def _claim(path: Path) -> None:
    with speaking(path):
        try:
            path.mkdir()
        except FileExistsError as error:
            raise ModelwrightError(
                f"the name '{path.name}' is taken",
                where=str(path),
                remedy=_claim_remedy(path),
            ) from error


def _claim_remedy(path: Path) -> str:
    if not (path / "run.json").exists():
        return "choose another name, or remove that folder: it is not a run"
    if _finished(path):
        return f"choose another name, or remove it: modelwright runs remove {path.name}"
    return f"choose another name, or go on with it: modelwright resume {path.name}"


def _finished(path: Path) -> bool:
    try:
        return Run(path).status() == "finished"
    except ModelwrightError:  # a damaged record must not hide that the name is taken
        return False


def _first_record(run: Run, verb: str, parent: Run | None) -> Record:
    return Record(
        id=uuid.uuid4().hex,
        name=run.name,
        verb=verb,
        created=now(),
        parent=parent.record.id if parent else None,
        parent_path=_path_between(run, parent) if parent else None,
        modelwright=package_version("modelwright"),
        process=this_process(),
    )


def _path_between(run: Run, parent: Run) -> str:
    here, there = run.path.resolve(), parent.path.resolve()
    return os.path.relpath(there, here) if here.parent == there.parent else str(there)


def _with_status(record: Record, status: Status) -> Record:
    if status == "running":
        return replace(record, status=status, process=this_process(), ended=None, error=None)
    return replace(record, status=status, ended=now() if status in _ENDED else None)


def _find(path_or_name: str | Path, folder: Path) -> Path:
    path = Path(path_or_name)
    plain_name = isinstance(path_or_name, str) and path.name == path_or_name
    if plain_name and (folder / path / "run.json").is_file():
        return folder / path
    if path.name == "run.json" and path.is_file():
        return path.parent
    for candidate in (path, folder / path) if plain_name else (path,):
        if candidate.is_dir():
            return candidate
    raise ModelwrightError(
        f"there is no run '{path_or_name}'",
        where=str(folder if plain_name else path.parent),
        remedy=nearest(path.name, names_in(folder if plain_name else path.parent))
        or "there are no runs here: start the command where they lie, or name the place with --folder",
    )


def _same(plan: Plan, old: Plan) -> bool:
    return replace(plan, number=old.number) == old


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ModelwrightError(f"the file cannot be read: {error}", where=str(path)) from error


def _changed_lately(path: Path) -> bool:
    names = ("run.json", "metrics.jsonl", "events.jsonl")
    times = [file.stat().st_mtime for name in names if (file := path / name).exists()]
    return bool(times) and time.time() - max(times) < _SILENT_SECONDS
