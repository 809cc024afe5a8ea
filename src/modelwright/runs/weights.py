"""The weights that a run has on disk: its checkpoints, whole or damaged, and what it made at its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash, read_json
from modelwright.runs.directory import Run

SHOWN = "shown/model.safetensors"
"""The weights to be scored, in a checkpoint of a run that averages; the others are those in training.

In a folder of their own: their names are those of the weights in training, and readers take all files of one folder."""

BEST = "best.json"
"""Beside the checkpoints: names those with the best held-out score on the way, best first."""

_SHOWN_EARLIER = "shown.safetensors"
_NAME = re.compile(r"step-(\d{8,})")


def newest_weights(run: Run) -> tuple[Path, int]:
    """The safetensors file with the run's newest weights, and the step they are of.

    What the run made at its end counts as long as no checkpoint is of a later step.

    Raises:
        ModelwrightError: there is none.
    """
    final, final_step = run.artifacts / "model.safetensors", _final_step(run)
    damages = []
    for path in list_checkpoints(run.checkpoints):
        step = step_of(path.name)
        if step <= final_step:
            break
        if (damage := find_damage(path)) is None:
            return weights_of(path), step
        damages.append(f"{path.name}: {damage}")
    if final_step >= 0:
        return final, final_step
    if damages:
        what = f"every checkpoint of the run '{run.name}' is damaged: {'; '.join(damages)}"
        raise ModelwrightError(what, where=str(run.checkpoints), remedy=_train(run))
    raise ModelwrightError(f"the run '{run.name}' has saved no weights yet", where=str(run.path), remedy=_train(run))


def _final_step(run: Run) -> int:
    """The step of the weights that the run made at its end; -1 where it made none."""
    if run.status() not in ("finished", "stopped") or not (run.artifacts / "model.safetensors").exists():
        return -1
    return int(run.record.summary.get("steps", 0))


def _train(run: Run) -> str:
    return f"let it train: modelwright resume {run.path}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: step_of(path.name), reverse=True)


def is_checkpoint(name: str) -> bool:
    """Whether a folder of that name is a checkpoint."""
    return _NAME.fullmatch(name) is not None


def step_of(name: str) -> int:
    """The step of a checkpoint's name."""
    return int(name.removeprefix("step-"))


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the best held-out score on the way, by ``best.json``; ``None`` where none is named."""
    if not (folder / BEST).exists():
        return None
    rows: list[dict[str, Any]] = read_json(folder / BEST)["best"]
    paths = [folder / str(row["name"]) for row in rows]
    return next((path for path in paths if is_checkpoint(path.name) and path.is_dir()), None)


def find_damage(path: Path, hashed: Callable[[Path], str] = file_hash) -> str | None:
    """What is wrong with a checkpoint by its manifest, or ``None``.

    Args:
        path: the checkpoint.
        hashed: the SHA-256 of a file; one who reads the files anyway takes it on the way.
    """
    try:
        files: dict[str, dict[str, Any]] = read_json(path / "manifest.json")["files"]
    except ModelwrightError as error:
        return f"no readable manifest: {error.what}"
    except (KeyError, TypeError):
        return "no readable manifest: it lists no files"
    return next(_differences(path, files, hashed), None)


def weights_of(path: Path) -> Path:
    """The file of a checkpoint with the weights to be scored: averages where there are any."""
    shown = (path / SHOWN, path / _SHOWN_EARLIER)
    return next((file for file in shown if file.exists()), path / "model.safetensors")


def _differences(path: Path, files: dict[str, dict[str, Any]], hashed: Callable[[Path], str]) -> Iterator[str]:
    for name, expected in files.items():
        file = path / name
        if not file.exists():
            yield f"{name} is missing"
        elif file.stat().st_size != expected["bytes"]:
            yield f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
        elif hashed(file) != expected["sha256"]:
            yield f"{name} differs from its hash"
