"""TensorBoard event files, written by the package ``tensorboard``: scalars, the recipe as text, hyper-parameters."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.errors import MissingExtra
from modelwright.base.files import make_folder, speaking
from modelwright.runs.directory import Run
from modelwright.runs.exporters import Exported, points, results, settings

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ImportError as error:
    raise MissingExtra("tensorboard", "exporting to TensorBoard") from error

_ENDING = ".modelwright"  # of files that are ours to replace


def export(run: Run, out: str | None = None) -> Exported:
    """Write ``OUT/RUN/events...`` (``tensorboard`` beside the run where ``out`` is ``None``).

    Told again, the files it wrote before are replaced.

    Raises:
        ModelwrightError: the folder cannot be written.
    """
    folder = Path(out) if out is not None else run.path.parent / "tensorboard"
    target = folder / run.name
    make_folder(target)
    with speaking(target):
        earlier = list(target.glob(f"events.out.tfevents.*{_ENDING}"))
        for path in earlier:
            path.unlink()
        count = _write(run, target)
    return Exported(place=str(target), points=count, look=f"tensorboard --logdir {folder}", replaced=bool(earlier))


def _write(run: Run, target: Path) -> int:
    writer = EventFileWriter(str(target), filename_suffix=_ENDING)
    count, first = 0, None
    try:
        for point in points(run):
            first = point.time if first is None else first
            value = Summary.Value(tag=point.name, simple_value=point.value)
            writer.add_event(Event(wall_time=point.time, step=point.step, summary=Summary(value=[value])))
            count += 1
        for summary in (_text("recipe", run.recipe()), _hyper_parameters(run), _results(run)):
            writer.add_event(Event(wall_time=first or 0.0, step=0, summary=summary))
    finally:
        writer.close()
    return count


def _text(tag: str, text: str) -> Summary:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[f"```\n{text}\n```".encode()], tensor_shape=shape)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _hyper_parameters(run: Run) -> Summary:
    known = {name: value for name, value in settings(run).items() if isinstance(value, (bool, int, float, str))}
    return summary_v2.hparams_pb(known, trial_id=run.record.id)


def _results(run: Run) -> Summary:
    return Summary(
        value=[Summary.Value(tag=f"result/{name}", simple_value=value) for name, value in results(run).items()]
    )
