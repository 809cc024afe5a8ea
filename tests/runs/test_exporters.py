"""Exported runs, read back with the tools' own readers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.runs import MetricsWriter, Run
from modelwright.runs.exporters import EXPORTERS, Exporter

RECIPE = "model: {use: mlp, hidden: [8, 8]}\noptimizer: {use: adamw, lr: 0.001}\nbatch: 32\nseed: 0\n"


def exporter(name: str) -> Exporter:
    pytest.importorskip(name)
    return EXPORTERS.resolve(name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "runs", "digits", "train")
    run.write_recipe(RECIPE)
    with MetricsWriter(run.metrics_path) as writer:
        for step in range(1, 6):
            loss = math.nan if step == 4 else 1.0 / step
            writer.write({"kind": "step", "step": step, "loss": loss, "seconds": 0.5 * step, "masked": step == 4})
            writer.write({"kind": "gradients", "step": step, "gradient_norm/blocks.0": 2.0 * step})
        writer.write({"kind": "evaluation", "step": 2, "seconds": 1.0, "accuracy": 0.5, "part": "held-out-part"})
        writer.write({"kind": "evaluation", "step": 5, "seconds": 2.5, "accuracy": 0.75, "part": "held-out"})
    (run.artifacts / "sections.json").write_text("[]")
    run.update(status="finished", summary={"loss": 0.2, "held_out": {"accuracy": 0.75}, "note": "text"})
    return run


# --- TensorBoard


@pytest.mark.filterwarnings("ignore")  # those of the reader
def test_tensorboard_reads_every_number_at_its_step_and_time(run: Run, tmp_path: Path) -> None:
    told = exporter("tensorboard")(run, str(tmp_path / "boards"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    board = EventAccumulator(told.place, size_guidance={"scalars": 0, "tensors": 0})
    board.Reload()
    losses = board.Scalars("train/loss")
    assert [entry.step for entry in losses] == [1, 2, 3, 4, 5]
    assert [entry.value for entry in losses] == pytest.approx([1.0, 0.5, 1 / 3, math.nan, 0.2], nan_ok=True)
    assert losses[4].wall_time - losses[0].wall_time == pytest.approx(2.0)
    assert [entry.value for entry in board.Scalars("gradient_norm/blocks.0")] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert [(entry.step, entry.value) for entry in board.Scalars("held_out/accuracy")] == [(5, 0.75)]
    assert [(entry.step, entry.value) for entry in board.Scalars("held_out_part/accuracy")] == [(2, 0.5)]
    assert board.Scalars("result/held_out.accuracy")[0].value == 0.75
    assert "lr: 0.001" in board.Tensors("recipe")[0].tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in board.PluginTagToContent("hparams")
    assert told.points == 5 * 3 + 2 and not told.replaced


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_told_again_is_told_once(run: Run, tmp_path: Path) -> None:
    export = exporter("tensorboard")
    export(run, str(tmp_path))
    other = tmp_path / run.name / "events.out.tfevents.1.elsewhere"
    other.write_bytes(b"")
    told = export(run, str(tmp_path))
    assert told.replaced and other.exists()
    assert len(list((tmp_path / run.name).iterdir())) == 2


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_lies_beside_the_run_where_no_place_is_named(run: Run) -> None:
    told = exporter("tensorboard")(run, None)
    assert Path(told.place) == run.path.parent / "tensorboard" / "digits"
    assert str(run.path.parent / "tensorboard") in told.look


# --- MLflow


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_parameters_metrics_tags_and_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = exporter("mlflow")(run, str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("modelwright").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "digits"
    assert found.data.params["optimizer.lr"] == "0.001" and found.data.params["model.use"] == "mlp"
    history = sorted(client.get_metric_history(found.info.run_id, "train/loss"), key=lambda entry: entry.step)
    assert [entry.step for entry in history] == [1, 2, 3, 4, 5]
    assert [entry.value for entry in history] == pytest.approx([1.0, 0.5, 1 / 3, math.nan, 0.2], nan_ok=True)
    assert found.data.metrics["held_out/accuracy"] == 0.75 and found.data.metrics["result/loss"] == 0.2
    assert found.data.tags["modelwright.id"] == run.record.id
    files = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {"recipe.yaml", "artifacts"} <= files
    assert not told.replaced and found.info.run_id in told.place


@pytest.mark.filterwarnings("ignore")
def test_mlflow_told_again_is_told_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = exporter("mlflow")
    export(run, str(tmp_path / "store"))
    run.update(summary={"loss": 0.1})
    assert export(run, str(tmp_path / "store")).replaced
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("modelwright").experiment_id])
    assert found.data.metrics["result/loss"] == 0.1


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_is_not_there_is_said(run: Run) -> None:
    with pytest.raises(ModelwrightError) as told:
        exporter("mlflow")(run, "nonsense://x")
    assert told.value.where == "nonsense://x" and "--out" in told.value.remedy


def test_an_exporter_that_is_not_there_is_said() -> None:
    with pytest.raises(ModelwrightError, match="no exporter named 'tensorbord'") as told:
        EXPORTERS.resolve("tensorbord")
    assert "tensorboard" in told.value.remedy
