"""What a trace of one batch says about a model: its blocks in their order, what they cost, what depends on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.graph import Graph, trace
from modelwright.objectives import Objective
from modelwright.parallel.pipeline.calls import calls_through
from modelwright.parallel.pipeline.flow import Attentions, Flow, Leaf, Node, Reached, Returned, outer_tensors, reach
from modelwright.parallel.regions import regions

_WHERE = "plan.layout.pipeline"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One forward pass and loss, as recorded.

    Attributes:
        blocks: names of the repeated blocks, in the order in which they run.
        costs: floating-point operations of each, with those of the code before it; the last one's with what follows.
        nodes: what depends on what.
        returned: what each block returns.
        finals: the nodes of the loss's terms.
        outputs: the nodes of the tensors in the outputs, which metrics may read.
        tensors: the nodes that each parameter and buffer was, by name.
    """

    blocks: tuple[str, ...]
    costs: tuple[int, ...]
    nodes: tuple[Node, ...]
    returned: tuple[Returned, ...]
    finals: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: Mapping[str, frozenset[int]]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a model is cut into stages.

    Attributes:
        blocks: names of all blocks, in the order in which they run.
        returned: what each block returns.
        borders: stage ``s`` owns the blocks from ``borders[s]`` up to ``borders[s + 1]``.
        received: by stage, the tensors that come from the stage before, in order; none for the first.
        holders: the stages that need a parameter or buffer, by name.
    """

    blocks: tuple[str, ...]
    returned: tuple[Returned, ...]
    borders: tuple[int, ...]
    received: tuple[tuple[Leaf, ...], ...]
    holders: Mapping[str, frozenset[int]]

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(self.borders) - 1


def analyse(model: nn.Module, objective: Objective, example: Mapping[str, Tensor]) -> Analysis:
    """Trace ``objective`` on ``model`` with the shapes of ``example``; nothing is computed.

    Raises:
        ModelwrightError: the model has no repeated blocks, one runs more than once, or it cannot be traced.
    """
    names = list(regions(model))
    if not names:
        raise ModelwrightError(
            f"the model {type(model).__name__} has no repeated blocks to make stages of: no nn.ModuleList or "
            "nn.Sequential of several modules of one class",
            where=_WHERE,
            remedy="leave the axis pipeline out of the layout, or hold the model's blocks in an nn.ModuleList",
        )
    flows: list[tuple[Flow, Any, Mapping[str, Tensor]]] = []

    def run(copied: nn.Module, batch: Any) -> Any:
        free_outer_modules(copied, names)
        flow = Flow(copied)
        with flow, Attentions(flow), calls_through(copied, {name: flow.around(name) for name in names}):
            outputs = objective.forward(copied, batch)
            losses = objective.loss(outputs, batch)
        flows.append((flow, outputs, losses))
        return dict(losses)

    graph = trace(model, example, forward=run)
    return _analysis(graph, *flows[-1])


def free_outer_modules(model: nn.Module, blocks: Sequence[str]) -> None:
    """Take the tracer's own hooks from modules outside of the blocks: a head that has hooks is called in other ways."""
    inner = {id(module) for name in blocks for module in model.get_submodule(name).modules()}
    for module in model.modules():
        if id(module) in inner:
            continue
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number, hook in list(hooks.items()):
                if getattr(hook, "__module__", "") == trace.__module__:
                    del hooks[number]


def _analysis(graph: Graph, flow: Flow, outputs: Any, losses: Mapping[str, Tensor]) -> Analysis:
    finals = tuple(flow.node_of(each) for each in losses.values())
    used = reach(flow.nodes, finals, 0).nodes
    runs = sorted({block for node in used if (block := flow.nodes[node].block) is not None})
    blocks = [flow.order[run] for run in runs]
    if twice := sorted({name for name in blocks if blocks.count(name) > 1}):
        raise ModelwrightError(
            f"the block {twice[0]} runs more than once in a pass, so it cannot belong to one stage",
            where=_WHERE,
            remedy="leave the axis pipeline out of the layout",
        )
    if not blocks:
        raise ModelwrightError("the loss depends on none of the model's repeated blocks", where=_WHERE)
    places = {run: place for place, run in enumerate(runs)}
    return Analysis(
        blocks=tuple(blocks),
        costs=_costs(graph, blocks),
        nodes=tuple(_renumbered(node, places) for node in flow.nodes),
        returned=tuple(flow.returned[run] for run in runs),
        finals=finals,
        outputs=tuple(flow.node_of(each) for each in outer_tensors(outputs)),
        tensors={name: frozenset(nodes) for name, nodes in flow.tensors.items()},
    )


def _renumbered(node: Node, places: Mapping[int, int]) -> Node:
    """With the places of blocks among those that count; what an idle attempt left depends on nothing."""
    if node.block is None:
        return node
    if node.block not in places:
        return Node(frozenset())
    place = places[node.block]
    return replace(node, block=place, leaf=(place, node.leaf[1]) if node.leaf else None)


def _costs(graph: Graph, blocks: list[str]) -> tuple[int, ...]:
    costs, before, current = [0] * len(blocks), 0, -1
    for operator in graph.operators:
        place = next((place for place, name in enumerate(blocks) if f"{operator.module}.".startswith(f"{name}.")), None)
        if place is None:
            before += operator.flops
            continue
        costs[place] += operator.flops + before
        before, current = 0, place
    costs[current] += before
    return tuple(costs)


def cut(analysis: Analysis, borders: tuple[int, ...]) -> Cut:
    """What each stage receives and holds.

    Raises:
        ModelwrightError: a block leaves something behind, other than by returning it, that a later stage reads.
    """
    stages = len(borders) - 1
    received: list[tuple[Leaf, ...]] = [()] * stages
    reached: list[set[int]] = [set()] * stages
    wanted: set[int] = set(analysis.finals) | _readable_outputs(analysis, borders[-2])
    for stage in reversed(range(stages)):
        found = reach(analysis.nodes, wanted, borders[stage])
        _refuse_hidden(analysis, found)
        received[stage], reached[stage] = tuple(sorted(found.leaves)), found.nodes
        wanted = {number for number in found.nodes if analysis.nodes[number].leaf in found.leaves}
    return Cut(
        blocks=analysis.blocks,
        returned=analysis.returned,
        borders=borders,
        received=tuple(received),
        holders=_holders(analysis, borders, reached),
    )


def _readable_outputs(analysis: Analysis, begin: int) -> set[int]:
    """Outputs that the last stage can know; a metric that reads others has no place in a pipeline."""
    return {number for number in analysis.outputs if not reach(analysis.nodes, [number], begin).hidden}


def _refuse_hidden(analysis: Analysis, found: Reached) -> None:
    if found.hidden:
        raise ModelwrightError(
            f"the block {analysis.blocks[min(found.hidden)]} leaves a tensor behind that later code reads, but which "
            "it does not return, so it would not reach the next stage",
            where=_WHERE,
            remedy="let the block return the tensor, or leave the axis pipeline out of the layout",
        )


def _holders(analysis: Analysis, borders: tuple[int, ...], reached: list[set[int]]) -> dict[str, frozenset[int]]:
    owners = {
        name: stage for stage, (begin, end) in enumerate(pairwise(borders)) for name in analysis.blocks[begin:end]
    }
    by_module: dict[str, set[int]] = {}
    direct: dict[str, set[int]] = {}
    for name, nodes in analysis.tensors.items():
        stages = {stage for stage, found in enumerate(reached) if not found.isdisjoint(nodes)}
        direct[name] = stages
        by_module.setdefault(name.rpartition(".")[0], set()).update(stages)
    return {
        name: frozenset(
            stages or _owner(name, owners) or by_module[name.rpartition(".")[0]] or {0},
        )
        for name, stages in direct.items()
    }


def _owner(name: str, owners: Mapping[str, int]) -> Iterable[int]:
    return {stage for block, stage in owners.items() if name.startswith(f"{block}.")}
