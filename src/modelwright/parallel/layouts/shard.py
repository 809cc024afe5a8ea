"""Shard: the ranks of the axis divide parameters, gradients and moments, and gather parameters where they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.parallel.draft import REPLICAS, Draft
from modelwright.parallel.experts import expert_parameters
from modelwright.parallel.layouts.replicate import equalise
from modelwright.parallel.norm import divided_norm
from modelwright.parallel.pipeline.program import PipelinedProgram
from modelwright.parallel.precisions.short_weights import Bf16Weights, lengthy
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.sharding.exchange import ShardExchange
from modelwright.parallel.sharding.parameters import ShardedParameter, sharded_parameters
from modelwright.parallel.sharding.program import ShardedProgram, Sharding, Whole
from modelwright.parallel.sharding.shares import Way, share_out
from modelwright.parallel.sharding.stages import ShardedStages
from modelwright.parallel.sharding.units import Units, units
from modelwright.parallel.sharding.usage import Usage, own_outputs


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Fully sharded data parallelism: every rank computes its own samples with parameters gathered from all.

    By torch's ``fully_shard``. Source: Rajbhandari et al. 2020 (arXiv:1910.02054); Zhao et al. 2023 (arXiv:2304.11277).

    With the layout expert the experts of a rank are not divided further: only all else is, and their gradients are
    summed over the ranks of this axis as over replicas. With the layout pipeline a rank gathers its stage once in a
    step, and has one stage.

    Attributes:
        stage: what is divided between uses: 1 the optimizer's moments (gradients are summed once in a step), 2 also
            gradients (summed after every micro-batch), 3 also parameters (gathered block by block, and dropped);
            with the layout pipeline 3 is 2.
        prefetch: gather so many blocks ahead; 0 leaves it to torch, which gathers one ahead in the backward.
        offload: keep what is divided in the memory of the host, and let the optimizer compute there.
        pinned: lock that memory, which makes copies faster.
    """

    stage: Literal[1, 2, 3] = 3
    prefetch: int = 0
    offload: bool = False
    pinned: bool = True

    axis: ClassVar[str] = "shard"

    def __post_init__(self) -> None:
        if self.stage not in (1, 2, 3):
            raise ModelwrightError(
                f"shard: stage is 1, 2 or 3, not {self.stage!r}",
                where="plan.layout.shard.stage",
                remedy="3 divides moments, gradients and parameters; 2 moments and gradients; 1 moments only",
            )
        if self.prefetch < 0:
            raise ModelwrightError(
                f"shard: prefetch is at least 0, not {self.prefetch}",
                where="plan.layout.shard.prefetch",
                remedy="leave it out, or give the blocks that are gathered ahead",
            )

    def apply(
        self, program: LocalProgram, mesh: Mesh, replicas: Sequence[str] = ("replicate", "context")
    ) -> LocalProgram:
        """Give every rank the tensors of the first, then only its rows of them; a collective.

        Args:
            program: on the mesh's device.
            mesh: of the ranks.
            replicas: axes along which torch also sums gradients, of parameters that are the same; none where an
                exchange that was connected before does that.

        Raises:
            ModelwrightError: the mesh has axes that do not go with it.
        """
        group = mesh.axis(self.axis)
        if group.size == 1:
            return program
        ranks = Ranks(
            group=group,
            replicas=mesh.along(*replicas),
            everyone=mesh.along(self.axis, *replicas),
            together=mesh.along(self.axis, *replicas, "expert"),
        )
        if isinstance(program, PipelinedProgram):
            return shard(program, replace(self, stage=min(self.stage, 2)), ranks)
        return shard(program, self, ranks)

    def sketch(self, draft: Draft, replicas: Sequence[str] = REPLICAS) -> Draft:
        """Leave to each rank its rows of what it keeps; they are gathered, and gradients summed and scattered.

        Args:
            draft: with what was kept before.
            replicas: axes along which torch also sums gradients; see :meth:`apply`.
        """
        stage = min(self.stage, 2) if draft.stages is not None else self.stage
        before, draft.held = draft.held, {}
        for spot, held in before.items():
            share_out(draft, spot, held, _experts(draft.model), Way(self.axis, stage, replicas))
        return draft


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who takes part in what.

    Attributes:
        group: ranks that divide parameters.
        replicas: that torch also sums gradients over.
        everyone: the group with these replicas.
        together: ranks that run equally many micro-batches: those, and others in each other's forward.
    """

    group: Group
    replicas: Group
    everyone: Group
    together: Group


def shard(program: LocalProgram, technique: Shard, ranks: Ranks) -> LocalProgram:
    """Divide a program's parameters among ranks; a collective of them and their replicas."""
    model, group = program.model, ranks.group
    equalise(model, ranks.everyone)
    short = program.precision.dtype if isinstance(program.precision, Bf16Weights) else None
    _mark(program)
    absent = program.held.stand_ins()
    kept = (_experts(model) if short is None else _experts(model) | lengthy(model)) - absent
    found, notes = units(model, absent, kept), _notes(model)
    mesh = _device_mesh(group, ranks.replicas, program.device)
    root = _sharded(model, found, technique, mesh, absent, short)
    holdings = sharded_parameters(model, found.whole, program.held.part, group, absent)
    members = _members(root, found.blocks, holdings)
    _carry(notes, members)
    _prefetch(root, found.blocks, technique.prefetch)
    usage = Usage(cast(nn.Module, root), members, holdings, wide=short is not None)
    exchange = ShardExchange(
        root, holdings, usage, ranks.everyone, ranks.together, stage=technique.stage, host=_host(ranks.everyone)
    )
    sharding = Sharding(root, holdings, technique.stage)
    if isinstance(program, PipelinedProgram):
        return ShardedStages(program, sharding, exchange)
    sharded = ShardedProgram(program, sharding, exchange)
    sharded.norm_of = divided_norm(sharded.held, group)
    return sharded


def _experts(model: nn.Module) -> set[nn.Parameter]:
    """Those that are spread over ranks: their gradients have other replicas than all else."""
    names = expert_parameters(model) if any(getattr(each, "travel", None) for each in model.modules()) else []
    return {model.get_parameter(name) for name in names}


def _sharded(
    model: nn.Module,
    found: Units,
    technique: Shard,
    mesh: DeviceMesh,
    absent: set[nn.Parameter],
    short: torch.dtype | None,
) -> FSDPModule:
    options: dict[str, Any] = {
        "mesh": mesh,
        "offload_policy": _offloading(technique, mesh.device_type),
        "mp_policy": _policy(short),
    }
    for parameter in model.parameters():
        if not parameter.is_contiguous() and parameter not in absent:
            parameter.data = parameter.data.contiguous()
    for block in found.blocks:
        own_outputs(block)
        ignored = found.outside | found.whole | absent
        fully_shard(block, reshard_after_forward=technique.stage == 3, ignored_params=ignored, **options)
    root = fully_shard(Whole(model), reshard_after_forward=False, ignored_params=found.whole | absent, **options)
    for module in root.modules():  # type: ignore[attr-defined]
        if isinstance(module, FSDPModule):  # sums, never means
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root


def _policy(short: torch.dtype | None) -> MixedPrecisionPolicy:
    """Parameters are gathered in the type ``short``, if any; gradients are summed in that of the masters."""
    if short is None:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(param_dtype=short, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _offloading(technique: Shard, device: str) -> OffloadPolicy:
    if technique.offload and device != "cpu":
        return CPUOffloadPolicy(pin_memory=technique.pinned)
    if technique.offload:
        emit("shard-offload", "nothing is offloaded: without an accelerator everything is in the host's memory anyway")
    return OffloadPolicy()


def _device_mesh(group: Group, replicas: Group, device: torch.device) -> DeviceMesh:
    assert group.process_group is not None
    if replicas.process_group is None:
        return DeviceMesh.from_group(group.process_group, device.type, mesh_dim_names=("shard",))
    rows = replicas.gather(dist.get_process_group_ranks(group.process_group))
    return DeviceMesh.from_group(
        [replicas.process_group, group.process_group],
        device.type,
        mesh=torch.tensor(rows),
        mesh_dim_names=("replicate", "shard"),
    )


def _host(group: Group) -> torch.device:
    """Where small numbers travel without waiting for an accelerator, if there is a way."""
    ways = dist.get_backend_config(group.process_group)
    return torch.device("cpu") if "cpu" in ways else group.transport


def _members(
    root: FSDPModule, blocks: Sequence[nn.Module], holdings: Sequence[ShardedParameter]
) -> list[tuple[nn.Module, list[ShardedParameter]]]:
    of: dict[nn.Module, nn.Module] = {module: block for block in blocks for module in block.modules()}
    members: dict[nn.Module, list[ShardedParameter]] = {unit: [] for unit in (*blocks, root)}  # type: ignore[misc]
    for one in holdings:
        users = {of.get(module, root) for module, _ in one.places}
        members[users.pop() if len(users) == 1 else root].append(one)  # type: ignore[index]
    return list(members.items())


def _mark(program: LocalProgram) -> None:
    """Let parameters carry their divisions: those that compute are others from now on, and these are to be freed."""
    divisions = dict(program.divisions)
    for parameter, division in divisions.items():
        parameter._division = division  # type: ignore[attr-defined]
    if divisions:
        cast(dict[Any, Any], program.divisions).clear()


def _notes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What others have noted on the parameters."""
    return {name: dict(vars(parameter)) for name, parameter in model.named_parameters() if vars(parameter)}


def _carry(notes: dict[str, dict[str, Any]], members: Sequence[tuple[nn.Module, list[ShardedParameter]]]) -> None:
    """Note it on the parameters that are computed with, and on those that are optimized."""
    for unit, parameters in members if notes else ():
        gathered = cast(FSDPModule, unit)
        gathered.unshard()
        for one in parameters:
            for parameter in (one.plain, *([one.present] if one.present is not None else [])):
                vars(parameter).update(notes.get(one.names[0], {}))
        gathered.reshard()


def _prefetch(root: FSDPModule, blocks: Sequence[nn.Module], ahead: int) -> None:
    """Gather ``ahead`` blocks before they are needed, in the order of the model."""
    if not ahead:
        return
    line: list[FSDPModule] = [block for block in blocks if isinstance(block, FSDPModule)]
    root.set_modules_to_forward_prefetch(line[:ahead])
    root.set_modules_to_backward_prefetch(line[: -ahead - 1 : -1])
    for place, block in enumerate(line):
        block.set_modules_to_forward_prefetch(line[place + 1 : place + 1 + ahead])
        block.set_modules_to_backward_prefetch(line[max(place - ahead, 0) : place][::-1])
