"""``.pte``: computed by ExecuTorch, of sizes up to the example's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.export.cases import OWN
from tests.export.test_artefact import held_out
from tests.export.test_files import answered

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.export import FORMATS
from modelwright.export.artefact import export
from modelwright.export.runtimes import runtime_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported with


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_it_computes_the_same_up_to_the_size_of_the_example(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("executorch.runtime")
    case = OWN[name]
    model = case.model()
    done = export(model, tmp_path / "model.pte", case.arguments(6, 9), facts={"run": "mine"})
    assert (
        done.distance is not None and done.distance < 1e-5 and runtime_of(done.path).facts(done.path)["run"] == "mine"
    )
    program = runtime.Runtime.get().load_program(done.path)
    forward = program.load_method("forward")
    for batch, length in ((6, 9), (1, 9), (4, 5)):
        inputs = case.arguments(batch, length)
        found = forward.execute(list(inputs.values()))[0]
        torch.testing.assert_close(found, answered(model, inputs), rtol=2e-4, atol=2e-5)
    with pytest.raises(ModelwrightError, match="is 7, and the file has room for 6"):
        runtime_of(done.path).open(done.path).run(case.arguments(7, 9))


def test_it_is_judged(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime")
    done = export(OWN["mlp"].model(), tmp_path / "model.pte", held_out=replace(held_out(), micro_batch=50))
    assert runtime_of(done.path).open(done.path).signature.largest == {"batch": 50}
    assert done.reported["accuracy"] == done.found["accuracy"] == pytest.approx(0.8)


def test_without_the_extra_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("executorch", "modelwright.export.executorch"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingExtra, match=r"\[executorch\]"):
        FORMATS.resolve("executorch")
