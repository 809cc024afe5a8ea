"""MLflow: parameters, metrics by step, tags and files of a run, told to a store by its client."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import make_folder
from modelwright.runs.directory import Run
from modelwright.runs.exporters import Exported, artefacts, points, results, settings

try:
    from mlflow.entities import Metric, Param, RunTag, ViewType
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
except ImportError as error:
    raise MissingExtra("mlflow", "exporting to MLflow") from error

EXPERIMENT = "modelwright"
_ALLOW = "MLFLOW_ALLOW_FILE_STORE"
_ID = "modelwright.id"
_BATCH = 1000  # metrics of one call, MLflow's own limit
_PARAMETERS = 100
_LONGEST = 6000
_STATES = {"finished": "FINISHED", "failed": "FAILED", "running": "RUNNING"}
_FORBIDDEN = re.compile(r"[^\w./ :-]")


def export(run: Run, out: str | None = None) -> Exported:
    """Tell the store ``out``: a folder or an address (``mlflow`` beside the run where it is ``None``).

    Told again, the MLflow run of an earlier export is removed first: it is known by the run's id.

    Raises:
        ModelwrightError: the store refuses, or cannot be reached.
    """
    folder = None if out is not None and "://" in out else Path(out or run.path.parent / "mlflow").absolute()
    address = str(out) if folder is None else folder.as_uri()
    look = f"mlflow ui --backend-store-uri {address}"
    try:
        if folder is None:
            return _export(run, MlflowClient(tracking_uri=address), address, look)
        make_folder(folder)
        with _plain_files():
            return _export(run, MlflowClient(tracking_uri=address), address, f"{_ALLOW}=true {look}")
    except MlflowException as error:
        raise ModelwrightError(
            f"MLflow refused: {str(error).strip().partition(chr(10))[0]}",
            where=address,
            remedy="name another place with --out: a folder, or an address such as http://127.0.0.1:5000",
        ) from error


@contextmanager
def _plain_files() -> Iterator[None]:
    """MLflow writes into plain folders only where it is told that this is meant."""
    before = os.environ.get(_ALLOW)
    os.environ[_ALLOW] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ALLOW]
        else:
            os.environ[_ALLOW] = before


def _export(run: Run, client: Any, address: str, look: str) -> Exported:
    experiment = _experiment(client)
    earlier = client.search_runs([experiment], f"tags.`{_ID}` = '{run.record.id}'", ViewType.ALL)
    for other in earlier:
        client.delete_run(other.info.run_id)
    told = client.create_run(experiment, start_time=_milliseconds(run.record.created), run_name=run.name)
    key = told.info.run_id
    count = _tell(client, key, run)
    client.set_terminated(key, _STATES.get(run.status(), "KILLED"), _milliseconds(run.record.ended))
    return Exported(
        place=f"{address}, run {key}",
        points=count,
        look=look,
        replaced=bool(earlier),
    )


def _experiment(client: Any) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    return str(known.experiment_id if known is not None else client.create_experiment(EXPERIMENT))


def _tell(client: Any, key: str, run: Run) -> int:
    parameters = [Param(_key(name), str(value)[:_LONGEST]) for name, value in settings(run).items()]
    for start in range(0, len(parameters), _PARAMETERS):
        client.log_batch(key, params=parameters[start : start + _PARAMETERS])
    client.log_batch(key, tags=_tags(run))
    count = 0
    metrics = _metrics(run)
    while batch := list(islice(metrics, _BATCH)):
        client.log_batch(key, metrics=batch)
        count += len(batch)
    for path in artefacts(run):
        inside = path.relative_to(run.path).parent
        client.log_artifact(key, str(path), None if inside == Path() else str(inside))
    return count


def _metrics(run: Run) -> Iterator[Any]:
    last = 0
    for point in points(run):
        last = max(last, point.step)
        yield Metric(_key(point.name), point.value, round(point.time * 1000), point.step)
    ended = _milliseconds(run.record.ended) or _milliseconds(run.record.created)
    for name, value in results(run).items():
        yield Metric(_key(f"result/{name}"), value, ended or 0, last)


def _tags(run: Run) -> list[Any]:
    record = run.record
    facts = {
        _ID: record.id,
        "modelwright.version": record.modelwright,
        "modelwright.verb": record.verb,
        "modelwright.status": run.status(),
        "modelwright.path": str(run.path.absolute()),
        "modelwright.parent": record.parent,
        "modelwright.error": (record.error or {}).get("what"),
    }
    return [RunTag(name, str(value)[:_LONGEST]) for name, value in facts.items() if value]


def _key(name: str) -> str:
    """MLflow's names know fewer characters."""
    return _FORBIDDEN.sub("_", name)


def _milliseconds(moment: str | None) -> int | None:
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
