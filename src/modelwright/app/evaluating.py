"""The verb ``evaluate``, of a run or of a file that was exported from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from modelwright.app.display import speaker
from modelwright.app.evaluate import evaluate as evaluate_run
from modelwright.app.evaluate_file import evaluate_file, is_file
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import listening
from modelwright.export.artefact import FORMS as ENDINGS
from modelwright.runs import Run


def evaluate(
    name: str,
    *,
    folder: Path,
    console: Console,
    of: str | None = None,
    data: str | None = None,
    trust: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """Score a run, or a file: see :func:`~modelwright.app.evaluate.evaluate` and :mod:`~.evaluate_file`.

    What a person should know of is shown on ``console``.

    Raises:
        ModelwrightError: neither; or what only a file takes was given for a run.
    """
    with listening(speaker(console)):
        if is_file(name):
            return evaluate_file(Path(name), folder=folder, of=of, data=data, trust=trust)
        _check_run(name, folder, of, data)
        return evaluate_run(name, folder=folder, trust=trust)


def _check_run(name: str, folder: Path, of: str | None, data: str | None) -> None:
    if Path(name).suffix in ENDINGS and not Path(name).exists() and not (folder / name).exists():
        raise ModelwrightError("there is no such file", where=name, remedy="name a run, or a file exported from one")
    if given := next((option for option, value in (("--run", of), ("--data", data)) if value is not None), None):
        raise ModelwrightError(f"{given} is for files; '{name}' is a run", where=given, remedy="leave it out")
