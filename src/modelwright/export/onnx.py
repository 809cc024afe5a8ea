"""ONNX: one file that onnxruntime and others compute, its sizes open where the model leaves them open."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import speaking
from modelwright.export.call import Call
from modelwright.export.program import Program, capture, named, symbols
from modelwright.export.signature import Signature

try:
    import onnx_ir
    import onnxscript  # noqa: F401  # what torch translates with
except ImportError as error:
    raise MissingExtra("onnx", "the export format 'onnx'") from error

OPSET = 20
SIGNATURE = "modelwright.signature"
_LARGE = 1 << 30  # bytes of weights; one file of the format ends at 2 GiB
_LEAVES = "`isinstance.treespec, LeafSpec.` is deprecated"  # torch's own use of what it has deprecated


def export_onnx(
    path: Path,
    weights: Mapping[str, Tensor],
    model: Callable[[], nn.Module],
    facts: Mapping[str, str],
    call: Callable[[], Call],
) -> None:
    """Write the model in float32 as it is called; the metadata holds the ``facts`` and the signature.

    Weights of more than 1 GiB lie beside the file, in one named like it and ``.data``.

    Raises:
        ModelwrightError: the model cannot be captured or has an operator that the format lacks; disk full.
    """
    write_onnx(capture(model(), call()), path, facts)


def write_onnx(program: Program, path: Path, facts: Mapping[str, str]) -> None:
    """The same of a captured program."""
    translated = _translated(program)
    _rename_sizes(translated.model, symbols(program))
    _forget_places(translated.model)
    for key, value in {**facts, SIGNATURE: program.signature.to_json()}.items():
        translated.model.metadata_props[key] = value
    large = sum(each.numel() * each.itemsize for each in program.exported.state_dict.values()) > _LARGE
    with speaking(path):
        translated.save(path, external_data=large)


def _translated(program: Program) -> Any:
    with _quietly():
        try:
            return _written(program.exported, program.signature)
        except Exception:  # whatever the translation of foreign operators raises
            return _written_in_parts(program)


def _written(exported: ExportedProgram, slots: Signature) -> Any:
    return torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[slot.name for slot in slots.inputs],
        output_names=[slot.name for slot in slots.outputs],
    )


def _written_in_parts(program: Program) -> Any:
    """A second attempt, of torch's core operators: what it keeps whole otherwise may not fit what comes behind it."""
    try:
        _allow_copies(program.exported)
        return _written(program.exported.run_decompositions(), program.signature)
    except Exception as error:  # as above
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ModelwrightError(
            f"the model cannot be written as ONNX: {reason[0] if reason else type(error).__name__}",
            where="torch.onnx",
            remedy="export it as torch-export, which has every operator of torch",
        ) from error


def _allow_copies(exported: ExportedProgram) -> None:
    """``reshape`` for ``view``: operators that are taken apart give other strides than those captured."""
    for node in exported.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default


def _rename_sizes(model: Any, known: Mapping[str, str]) -> None:
    """``batch`` instead of ``s67``, and numbers where a size is fixed after all."""
    for value in (each for graph in model.graphs() for each in _values(graph)):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_size(size, known) for size in value.shape])


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _size(size: Any, known: Mapping[str, str]) -> Any:
    if isinstance(size, int) or size.value is None:
        return size
    text = named(str(size.value), known)
    return int(text) if text.isdigit() else text


def _forget_places(model: Any) -> None:
    """Lines of code on this machine do not belong in a file for others."""
    model.doc_string = None
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in _values(graph):
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
        for value in graph.initializers.values():
            value.metadata_props.clear()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch tells of packages that are not needed."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _LEAVES, FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"onnx|torch\.onnx|copyreg")
            yield
    finally:
        logger.setLevel(level)
