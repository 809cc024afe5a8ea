"""The verb ``recipe layout``: how a recipe's layout would divide its model, before a process is started."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from modelwright.app.check import check_model, check_techniques
from modelwright.app.located import located
from modelwright.app.places import data_cache
from modelwright.base.axes import DATA_AXES, product_text
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.plan import Plan
from modelwright.base.units import bytes_text
from modelwright.data import Splits
from modelwright.data.batches import first_there, read
from modelwright.data.manifest import NAME as MANIFEST
from modelwright.data.manifest import check
from modelwright.graph import trace
from modelwright.models.attention import attention_kernels
from modelwright.objectives import Objective
from modelwright.parallel.experts.spreading import check_experts, expert_parameters
from modelwright.parallel.laying import layouts_of
from modelwright.parallel.layouts.context import check_inputs
from modelwright.parallel.pipeline.analysis import analyse, cut
from modelwright.parallel.pipeline.holding import held_names
from modelwright.parallel.pipeline.schedules import placement
from modelwright.parallel.sharding.units import units
from modelwright.parallel.tensor import Decision
from modelwright.planning.search import check_workers, default_plan
from modelwright.recipe import Recipe, load
from modelwright.recipe.build import open_data
from modelwright.recipe.own import build_objective, optimizers_of
from modelwright.training.checking import check_layout
from modelwright.training.prepared import begun

_HOW = 20  # columns for words, beside which names are broken at their dots
_MOMENTS = 2  # Adam's, in the parameters' type.
_WHAT = {
    "replicate": "nothing: each has all that other axes leave",
    "shard": "the model and its moments, by rows",
    "tensor": "each layer",
    "context": "the positions of each sequence",
    "pipeline": "the blocks, in stages",
    "expert": "the experts of each block",
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a pipeline.

    Attributes:
        stage: its number.
        rank: along the axis, that computes it.
        blocks: names of the first and the last.
        count: how many blocks there are.
        share: of the operations of all blocks.
    """

    stage: int
    rank: int
    blocks: tuple[str, str]
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the first worker of a stage keeps between steps, in bytes.

    Attributes:
        rank: along the axis pipeline.
        parameters, gradients: of the pieces that it holds.
        moments: two for each trained number, as Adam keeps them.
    """

    rank: int
    parameters: int
    gradients: int
    moments: int


def layout(source: str, overrides: Sequence[str]) -> dict[str, Any]:
    """How a recipe's layout would divide its model over workers; nothing is computed and no process is started.

    Args:
        source: a recipe's path, or the name of a shipped one.
        overrides: dotted assignments such as ``plan.layout.tensor=2``.

    Returns:
        JSON-ready: ``workers``, ``axes``, what each worker holds, and how ``tensor`` and ``pipeline`` divide the model.

    Raises:
        ModelwrightError: the layout makes no sense for this recipe, or the recipe is mistaken.
    """
    loaded = load(source, overrides)
    recipe, cluster = loaded.recipe, detect()
    with located(loaded):
        folder, data = open_data(loaded, data_cache())
        if (folder / MANIFEST).is_file():
            check(folder)
        model = check_model(recipe, data)
        check_techniques(recipe, model, cluster)
        kernels = attention_kernels(model, cluster.device)
        plan = default_plan(recipe.plan, cluster, batch=recipe.batch, kernels=kernels, launched=False)
        check_layout(plan, batch=recipe.batch, optimizers=optimizers_of(recipe))
        objective = begun(build_objective(recipe), model)
        example = read(data.train, first_there(data.train, plan.micro_batch))
        return {**_plain(plan), **explained(plan, model.train(), objective, example), "here": _fits_here(plan)}


def check_laid_out(plan: Plan, recipe: Recipe, model: nn.Module, data: Splits) -> None:
    """Find out, before a process is started, whether the model can be laid out as the plan says.

    Where tensor leaves parameters whole only for their sizes, an event says so.

    Raises:
        ModelwrightError: it cannot, with the reason.
    """
    check_layout(plan, batch=recipe.batch, optimizers=optimizers_of(recipe))
    if layouts_of(plan):
        example = read(data.train, first_there(data.train, plan.micro_batch))
        told = explained(plan, model.train(), begun(build_objective(recipe), model), example)
        for message in told["uneven"]:
            emit("tensor-uneven", message, level="warning")


def explained(plan: Plan, model: nn.Module, objective: Objective, example: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a plan's layout makes of a model.

    Args:
        plan: of which the layout matters.
        model: whole, on any device.
        objective: what it is trained for.
        example: a micro-batch, of which shapes and types matter.

    Raises:
        ModelwrightError: the model cannot be laid out so, with the reason.
    """
    layouts = layouts_of(plan)
    decision = _decided(layouts["tensor"], plan, model, objective, example) if "tensor" in layouts else None
    check_experts(model, plan.layout.get("expert", 1))
    if "context" in layouts:
        check_inputs(example.values(), plan.layout["context"])
    stages, held = _staged(layouts.get("pipeline"), plan, model, objective, example)
    stored = _stored(model, decision, plan)
    shard = getattr(layouts.get("shard"), "stage", 0)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tensor": None if decision is None else decision.to_json(),
        "uneven": [] if decision is None else list(_uneven(decision)),
        "pipeline": [asdict(stage) for stage in stages],
        "held": [asdict(_held(rank, names, stored, shard)) for rank, names in enumerate(held)],
    }


def _plain(plan: Plan) -> dict[str, Any]:
    axes = [
        {"axis": axis, "workers": size, "samples": "own" if axis in DATA_AXES else "shared", "what": _WHAT[axis]}
        for axis, size in plan.layout.items()
    ]
    return {"workers": plan.workers, "shares": plan.shares, "micro_batch": plan.micro_batch, "axes": axes}


def _fits_here(plan: Plan) -> str | None:
    """Why this machine cannot run so many workers; ``None`` where it can."""
    try:
        check_workers(plan.workers, detect())
    except ModelwrightError as error:
        return error.what
    return None


def _decided(
    technique: Any, plan: Plan, model: nn.Module, objective: Objective, example: Mapping[str, Tensor]
) -> Decision:
    graph = trace(model, dict(example), forward=objective.forward, loss=objective.loss)
    decision: Decision = technique.decide(graph, plan.layout["tensor"])
    return decision


def _uneven(decision: Decision) -> Iterator[str]:
    """What could be divided among another number of workers."""
    reasons: dict[str, list[str]] = {}
    for row in decision.whole:
        if row.uneven:
            reasons.setdefault(row.how, []).append(row.name)
    for how, names in reasons.items():
        yield f"tensor: {how} workers, so each of them keeps and computes all of {', '.join(names)}"


def _staged(
    technique: Any, plan: Plan, model: nn.Module, objective: Objective, example: Mapping[str, Tensor]
) -> tuple[list[Stage], list[frozenset[str]]]:
    """The stages, and by rank along the axis the names that it holds."""
    if technique is None:
        return [], [frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))]
    ranks = plan.layout["pipeline"]
    analysis = analyse(model, objective, example)
    borders = technique.borders(analysis, ranks)
    found = cut(analysis, borders)
    places = placement(technique.schedule, ranks, found.stages)
    costs = analysis.costs if technique.costs is None else technique.costs
    stages = [
        Stage(
            stage=stage,
            rank=places[stage],
            blocks=(analysis.blocks[begin], analysis.blocks[end - 1]),
            count=end - begin,
            share=sum(costs[begin:end]) / (sum(costs) or 1),
        )
        for stage, (begin, end) in enumerate(pairwise(borders))
    ]
    own = [[stage for stage, rank in enumerate(places) if rank == mine] for mine in range(ranks)]
    return stages, [held_names(found, each) for each in own]


@dataclass(frozen=True)
class _Stored:
    """Bytes of a parameter on one worker, before and after its rows are shared out."""

    whole: int
    row: int
    names: frozenset[str]
    trained: bool


def _stored(model: nn.Module, decision: Decision | None, plan: Plan) -> list[_Stored]:
    names: dict[nn.Parameter, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, set()).add(name)
    spread, shards = set(expert_parameters(model)), plan.layout.get("shard", 1)
    whole = units(model).whole if shards > 1 else set()
    stored = []
    for parameter, known in names.items():
        shape = _local_shape(parameter, known, decision)
        if known & spread:
            shape = (shape[0] // plan.layout.get("expert", 1), *shape[1:])
        rows = shape if parameter in whole or not shape else (-(-shape[0] // shards), *shape[1:])
        size = parameter.element_size()
        stored.append(
            _Stored(math.prod(shape) * size, math.prod(rows) * size, frozenset(known), parameter.requires_grad)
        )
    return stored


def _local_shape(parameter: nn.Parameter, names: set[str], decision: Decision | None) -> tuple[int, ...]:
    if decision is not None:
        for name in names & decision.divisions.keys():
            return tuple(decision.divisions[name].local_shape(decision.sizes))
    return tuple(parameter.shape)


def _held(rank: int, names: frozenset[str], stored: Sequence[_Stored], shard: int) -> Held:
    mine = [each for each in stored if each.names & names]
    trained = [each for each in mine if each.trained]
    return Held(
        rank=rank,
        parameters=sum(each.row if shard == 3 else each.whole for each in mine),
        gradients=sum(each.row if shard >= 2 else each.whole for each in trained),
        moments=_MOMENTS * sum(each.row if shard else each.whole for each in trained),
    )


def laid_out(told: Mapping[str, Any]) -> RenderableType:
    """The layout as tables."""
    return Group(*_sections(told))


def _sections(told: Mapping[str, Any]) -> Iterator[RenderableType]:
    workers, shares = told["workers"], told["shares"]
    product = product_text({each["axis"]: each["workers"] for each in told["axes"]})
    yield f"{workers} worker{'s' * (workers != 1)}: {product}"
    split = f"in {shares} share{'s' * (shares != 1)}, in micro-batches of up to {told['micro_batch']}"
    yield f"samples of a step {split}"
    if told["here"]:
        yield f"[yellow]not here:[/] {escape(told['here'])}"
    yield ""
    yield _axes(told["axes"])
    if told["pipeline"]:
        yield from ("", _stages(told["pipeline"]))
    if told["tensor"]:
        yield from ("", _Divisions(told["tensor"]["parameters"]))
        yield from (f"[yellow]![/] {escape(message)}" for message in told["uneven"])
        yield f"a worker sends about {bytes_text(told['tensor']['sent'])} for this with each micro-batch"
    yield from ("", _holdings(told["held"], staged=bool(told["pipeline"])))


def _table(*heads: str) -> Table:
    made = Table(*heads, box=None, pad_edge=False)
    for column in made.columns:
        column.overflow = "fold"
    return made


def _axes(axes: Sequence[Mapping[str, Any]]) -> Table:
    made = _table("axis", "workers", "samples", "what they share")
    for each in axes:
        made.add_row(each["axis"], str(each["workers"]), each["samples"], each["what"])
    return made


def _stages(stages: Sequence[Mapping[str, Any]]) -> Table:
    made = _table("stage", "rank", "share", "blocks")
    for each in stages:
        first, last = each["blocks"]
        blocks = first if first == last else f"{first} .. {last} ({each['count']})"
        made.add_row(str(each["stage"]), str(each["rank"]), f"{each['share']:.0%}", escape(blocks))
    return made


@dataclass(frozen=True)
class _Divisions:
    """A line for each parameter, or two where its name is long."""

    rows: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        made = _table("parameter", "own/whole", "bytes", "how")
        sizes = [(_shape(row), bytes_text(row["bytes"])) for row in self.rows]
        taken = sum(max((len(each[place]) for each in sizes), default=0) for place in (0, 1))
        room = options.max_width - max(taken, len("own/wholebytes")) - _HOW - 6  # two columns between columns
        names = [f"{row['name']} ({row['count']})" if row["count"] > 1 else row["name"] for row in self.rows]
        made.columns[0].width = min(max(map(len, names), default=0), room)
        for row, name, size in zip(self.rows, names, sizes, strict=True):
            texts = (_at_dots(name, room), *size, re.sub(r"^dim \d+: ", "", row["how"]))
            made.add_row(*map(escape, texts), style="" if row["divided"] else "dim")
        yield made


def _at_dots(name: str, room: int) -> str:
    """A long name in several lines."""
    lines = [""]
    for part in re.findall(r"[^.]*\.?", name):
        if lines[-1].strip() and len(lines[-1] + part) > room:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _shape(row: Mapping[str, Any]) -> str:
    """``1024/2048 x 192``: of the first dim a worker has half."""
    pairs = zip(row["local_shape"], row["shape"], strict=True)
    return " x ".join(str(own) if own == whole else f"{own}/{whole}" for own, whole in pairs) or "a number"


def _holdings(held: Sequence[Mapping[str, Any]], *, staged: bool) -> Table:
    made = _table("a worker holds", "parameters", "gradients", "two moments", "together")
    for each in held:
        sizes = [each[name] for name in ("parameters", "gradients", "moments")]
        made.add_row(f"rank {each['rank']} of pipeline" if staged else "", *map(bytes_text, (*sizes, sum(sizes))))
    return made
