"""What a rank of a sharded program holds, when, and for whom; what it sends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.parallel.shard.training import (
    micro_batches,
    model_of,
    samples,
    sharded_program,
    steps,
)
from tests.world import run_world
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.data.memory import InMemory
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.layouts.shard import Shard
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.traffic import Traffic
from modelwright.training.evaluation import evaluate
from modelwright.training.gathering import gather_model

HERE = "tests.parallel.shard.test_holding"
COUNTS = {"cross-entropy": torch.tensor(10)}


# --- memory


def held_bytes() -> int:
    """Of all float64 tensors of this process."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if isinstance(found, Tensor) and found.dtype == torch.float64]
    tensors += [found.grad for found in tensors if found.is_leaf and found.grad is not None]
    tensors = [found._local_tensor if isinstance(found, DTensor) else found for found in tensors]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def wide(layers: int = 4) -> nn.Module:
    return GPT(vocabulary=8, layers=layers, width=64, heads=2, tied_embeddings=True).build().double()


def memory(mesh: Mesh, stage: int) -> dict[str, float]:
    """In units of the model: after sharding, after an earlier micro-batch, before and after the step."""
    begin = held_bytes()
    program = LocalProgram(wide(), NextToken(), device=mesh.device)
    size = sum(parameter.nbytes for parameter in program.model.parameters())
    program = Shard(stage=stage).apply(program, mesh)
    found = {"sharded": held_bytes()}
    backward = program.exchange.backward

    @contextmanager
    def measured(last: bool) -> Iterator[None]:
        with backward(last):
            yield
        found["last" if last else "earlier"] = held_bytes()

    program.exchange.backward = measured
    with program.held.local():
        optimizer = torch.optim.Adam(program.model.parameters())
    batches = micro_batches({"micro_batch": 1}, 0, mesh.rank, 2)[:2]
    program.forward_backward([{name: value % 8 for name, value in batch.items()} for batch in batches], COUNTS)
    program.exchange.before_step()
    optimizer.step()
    for parameter in program.parameters():
        parameter.grad = None
    found["after"] = held_bytes()
    return {name: (value - begin) / size for name, value in found.items()}


def memory_of_stages(mesh: Mesh) -> dict[int, dict[str, float]]:
    return {stage: memory(mesh, stage) for stage in (1, 2, 3)}


def test_each_stage_divides_what_it_should() -> None:
    """Two ranks: halves of parameters and of two moments; in between, what is whole."""
    for found in run_world(f"{HERE}:memory_of_stages", 2, layout={"shard": 2}, timeout=600):
        for stage in ("1", "2", "3"):
            assert found[stage]["sharded"] == pytest.approx(0.5, abs=0.02)
            assert found[stage]["last"] == pytest.approx(1.0, abs=0.02)  # and half of the gradients
            assert found[stage]["after"] == pytest.approx(1.5, abs=0.02)
        assert found["1"]["earlier"] == pytest.approx(0.5 + 1 + 1, abs=0.02)
        assert found["2"]["earlier"] == pytest.approx(0.5 + 1 + 0.5, abs=0.02)
        assert found["3"]["earlier"] == pytest.approx(0.5 + 0.5, abs=0.02)


# --- traffic


def traffic(mesh: Mesh) -> dict[str, Any]:
    """Of one step of three micro-batches, in units of the model; the ranks' agreements are small change."""
    found = {}
    for stage in (1, 2, 3):
        program = LocalProgram(wide(), NextToken(), device=mesh.device)
        size = sum(parameter.nbytes for parameter in program.model.parameters())
        program = Shard(stage=stage).apply(program, mesh)
        batches = micro_batches({"micro_batch": 1}, 0, 0, 2)
        with Traffic() as counted:
            program.forward_backward([{name: value % 8 for name, value in batch.items()} for batch in batches], COUNTS)
            program.exchange.before_step()
        found[stage] = {kind: value / size for kind, value in counted.by_kind().items()}
    return found


def test_a_ring_sends_what_it_must() -> None:
    """(K - 1) / K of the model for each gathering and each reduction; the outermost unit is gathered once."""
    for found in run_world(f"{HERE}:traffic", 2, layout={"shard": 2}, timeout=600):
        assert found["1"]["all-gather"] == pytest.approx(0.5, rel=0.01)
        assert found["1"]["reduce-scatter"] == pytest.approx(0.5, rel=0.01)
        assert found["2"]["all-gather"] == pytest.approx(0.5, rel=0.01)
        assert found["2"]["reduce-scatter"] == pytest.approx(1.5, rel=0.01)
        assert found["3"]["all-gather"] == pytest.approx(3.0, rel=0.01)
        assert found["3"]["reduce-scatter"] == pytest.approx(1.5, rel=0.01)
        assert all(found[stage]["all-reduce"] < 0.01 for stage in found)


# --- plain parameters


def holding(mesh: Mesh) -> dict[str, Any]:
    case = {"model": "odd", "stage": 3}
    reference = model_of(case)
    wanted = reference.state_dict(keep_vars=True)
    program = sharded_program(mesh, case)
    found = program.held.tensors()
    pieces = all(torch.equal(found[name], program.held.part(name).take(value)) for name, value in wanted.items())
    names = program.held.names()
    with program.held.local():
        plain = all(parameter in names for parameter in program.model.parameters())
        same = list(program.model.state_dict()) == list(wanted)
        tied = program.model.layers[1].inner.weight is program.model.outer.weight
        frozen = [names[parameter] for parameter in program.model.parameters() if not parameter.requires_grad]
    doubled = {name: 2 * value.detach() for name, value in wanted.items()}
    program.held.put(program.held.pieces(doubled))
    whole = gather_model(program.held, mesh.world)
    loaded = all(torch.equal(whole[name], doubled[name]) for name in whole)
    with program.held.local():
        program.model.load_state_dict(program.held.pieces({name: value.detach() for name, value in wanted.items()}))
    batch = micro_batches({"micro_batch": 1}, 0, 0, 1)[0]
    with torch.no_grad():
        outputs, own = program.forward(batch), NextToken().forward(reference, batch)
    close = torch.equal(getattr(outputs, "features", outputs), getattr(own, "features", own))
    return {
        **{"pieces": pieces, "plain": plain, "same": same, "tied": tied, "loaded": loaded, "computes": close},
        "names": set(names.values()) == {name for name, _ in reference.named_parameters()},
        "frozen": frozen == [f"layers.{layer}.fixed" for layer in range(4)],
    }


def test_plain_parameters_are_the_rows_of_the_whole() -> None:
    for found in run_world(f"{HERE}:holding", 4, layout={"shard": 4}, timeout=600):
        assert all(found.values()), found


class Moved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(nn.functional.one_hot(inputs % 4, 4).to(self.layer.weight))


def misused(mesh: Mesh) -> list[str]:
    batches = micro_batches({"micro_batch": 1}, 0, 0, 2)
    batches = [{name: torch.where(value < 0, value, value % 4) for name, value in batch.items()} for batch in batches]
    program = Shard().apply(LocalProgram(Moved(), NextToken(), device=mesh.device), mesh)
    program.model.double()
    program.forward_backward(batches, COUNTS)
    with pytest.raises(ModelwrightError) as moved:
        program.exchange.before_step()
    program = sharded_program(mesh, {"stage": 1})
    model = program.model

    def features(inputs: Tensor, **_: Any) -> Tensor:
        x = model.embedding(inputs)
        return model.blocks[mesh.rank](x, model._rotation(inputs.size(1), None, x))

    model.features = features
    program.forward_backward(micro_batches({}, 0, mesh.rank, 2), COUNTS)
    with pytest.raises(RunFailed) as apart:
        program.exchange.before_step()
    return [str(moved.value), str(apart.value)]


def test_what_would_go_wrong_in_silence_is_refused() -> None:
    for moved, apart in run_world(f"{HERE}:misused", 2, layout={"shard": 2}, timeout=600):
        assert "moved or converted" in moved
        assert "different blocks" in apart


# --- evaluation


def evaluations(mesh: Mesh) -> list[dict[str, float]]:
    """Before, between and after steps, of weights that are swapped in, and with everything gathered."""
    case = {"stage": 3, "micro_batch": 2}
    program = (
        sharded_program(mesh, case) if mesh.size > 1 else LocalProgram(model_of(case), NextToken(), device=mesh.device)
    )
    data = InMemory({name: torch.cat([samples(step)[name] for step in (7, 8)])[:9] for name in samples(0)})

    def score() -> dict[str, float]:
        return evaluate(program, data, ["perplexity"], mesh.world, micro_batch=2)

    found = [score()]
    steps(program, {**case, "steps": 1}, mesh.rank, mesh.size, mesh.world.all_reduce)
    found += [score(), score()]
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.mul_(1.5)
    found.append(score())
    steps(program, {**case, "steps": 1}, mesh.rank, mesh.size, mesh.world.all_reduce)
    found.append(score())
    if mesh.size > 1:
        with program.gathered(), torch.no_grad():
            if mesh.rank == 0:  # alone
                outputs = program.forward(samples(0))
                found.append({"loss": float(NextToken().loss(outputs, samples(0))["cross-entropy"])})
    else:
        with torch.no_grad():
            found.append({"loss": float(NextToken().loss(program.forward(samples(0)), samples(0))["cross-entropy"])})
    return found


def test_evaluation_is_that_of_one_process() -> None:
    (wanted,) = run_world(f"{HERE}:evaluations", 1, layout={"shard": 1}, timeout=600)
    first, second = run_world(f"{HERE}:evaluations", 2, layout={"shard": 2}, timeout=600)
    assert wanted[1] == wanted[2] != wanted[3]
    for found in (first, second):
        for mine, other in zip(found, wanted, strict=False):
            assert mine == pytest.approx(other, rel=1e-12)
    assert (len(first), len(second)) == (len(wanted), len(wanted) - 1)


# --- the rest


def others(mesh: Mesh) -> dict[str, Any]:
    events: list[Event] = []
    with listening(events.append):
        program = sharded_program(mesh, {"stage": 2, "model": "odd", "offload": True})
    kinds = [event.kind for event in events]
    mine = [parameter for parameter, name in program.held.names().items() if name.startswith("layers.0.inner")]
    part = program.part(mine, ())
    part.forward_backward(micro_batches({}, 0, mesh.rank, mesh.size), COUNTS)
    part.exchange.before_step()
    touched = {name for parameter, name in program.held.names().items() if parameter.grad is not None}
    program.forward_backward(micro_batches({}, 0, mesh.rank, mesh.size), COUNTS)
    program.exchange.before_step()
    missing = {name for parameter, name in program.held.names().items() if parameter.grad is None}
    model = model_of({})
    for parameter in model.parameters():
        parameter.noted = parameter.shape[0]
    noted = Shard().apply(LocalProgram(model, NextToken(), device=mesh.device), mesh)
    carried = all(hasattr(parameter, "noted") for parameter in noted.parameters())
    with noted.gathered():
        carried = carried and all(parameter.noted == len(parameter) for parameter in noted.model.parameters())
    return {"kinds": kinds, "touched": sorted(touched), "missing": sorted(missing), "carried": carried}


def test_parts_events_and_notes() -> None:
    for found in run_world(f"{HERE}:others", 2, layout={"shard": 2}, timeout=600):
        assert found["kinds"] == ["shard-offload"]
        assert found["touched"] == ["layers.0.inner.bias", "layers.0.inner.weight"]
        never = [f"layers.{layer}.{name}" for layer in range(4) for name in ("fixed", "never.bias", "never.weight")]
        assert [name for name in found["missing"] if "seldom" not in name] == [*never, "unused"]
        assert found["carried"]


def test_settings_are_checked() -> None:
    with pytest.raises(ModelwrightError, match="stage is 1, 2 or 3"):
        Shard(stage=4)  # type: ignore[arg-type]
    with pytest.raises(ModelwrightError, match="prefetch is at least 0"):
        Shard(prefetch=-1)
