"""Exported files compute what the model computes, at other sizes than the traced ones, with nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export.cases import OWN, THEIRS, Case
from torch import Tensor, nn

from modelwright.export.artefact import export

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported with

Compute = Callable[[dict[str, Tensor]], Tensor]


def onnxruntime(path: Path) -> Compute:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    return lambda inputs: torch.from_numpy(session.run(None, {name: each.numpy() for name, each in inputs.items()})[0])


def program(path: Path) -> Compute:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values())[0]


READERS = {".onnx": onnxruntime, ".pt2": program}


def answered(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        outputs = model(**inputs)
    return getattr(outputs, "logits", outputs)


def check(case: Case, path: Path) -> None:
    model = case.model()
    done = export(model, path, case.arguments(3, 9))
    assert done.distance is not None and done.distance < 1e-5 and done.bytes == path.stat().st_size
    compute = READERS[path.suffix](path)
    for batch, length in ((3, 9), (1, 9), (7, 9), (1, case.other), (5, case.other)):
        inputs = case.arguments(batch, length)
        with torch.no_grad():
            torch.testing.assert_close(compute(inputs), answered(model, inputs), rtol=2e-4, atol=2e-5)


COVERING = [("bert", ".pt2"), ("llama", ".onnx")]
SLOW = [("mlp", ".onnx"), ("gpt-experts", ".onnx"), ("gpt", ".pt2"), ("transformer", ".pt2"), ("convnet", ".pt2")]
EVERY = [(name, ending) for name in (*OWN, *(f"transformers/{name}" for name in THEIRS)) for ending in READERS]


@pytest.mark.parametrize(("name", "ending"), EVERY)
def test_it_computes_the_same(name: str, ending: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind, _, theirs = name.partition("/")
    slow = (theirs, ending) not in COVERING if theirs else (name, ending) in SLOW
    if slow and not request.config.getoption("--full"):
        pytest.skip("slow: --full")
    if theirs:
        pytest.importorskip("transformers")
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    check(THEIRS[theirs] if theirs else OWN[kind], tmp_path / f"model{ending}")
