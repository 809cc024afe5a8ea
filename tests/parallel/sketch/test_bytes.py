"""What is foretold of a layout is what its ranks do: every byte that each of them sends and keeps."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parallel.sketch.steps import Case, differences, foretold
from tests.world import run_world

from modelwright.parallel.pipeline.schedules import SCHEDULES, possible

HERE = "tests.parallel.sketch.test_bytes"
EVEN = {"experts": 4, "experts_per_token": 4, "hidden": 8}  # every expert works on every token
DEEP = {"layers": 4}
CENTRAL = {"use": "central", "bucket": 1000}


def case(model: str = "gpt", exchange: Any = "all-reduce", fields: dict[str, Any] | None = None, **axes: Any) -> Case:
    """An axis is given by its size, or by that and its settings."""
    sizes = {axis: given if isinstance(given, int) else given.pop("size") for axis, given in axes.items()}
    settings = {axis: given for axis, given in axes.items() if not isinstance(given, int)}
    return {"layout": sizes, "settings": settings, "model": model, "exchange": exchange, "fields": fields or {}}


EXCHANGES = [
    *(case(replicate=2, exchange=exchange) for exchange in ("all-reduce", "ring", CENTRAL)),
    *(case(replicate=2, exchange={"use": use, "compression": "bf16"}) for use in ("all-reduce", "ring", "central")),
    case(replicate=2, exchange={"use": "all-reduce", "compression": "powersgd"}),
    case(replicate=2, exchange={"use": "ring", "compression": {"use": "powersgd", "rank": 2}}, model="blocks"),
]
ONE_AXIS = [
    *(case(shard={"size": 2, "stage": stage}) for stage in (1, 2, 3)),
    case(shard=2, model="blocks"),
    case(shard=2, exchange="ring"),
    case(tensor=2),
    case(tensor={"size": 2, "sequence": False}, model="full"),
    case(tensor=2, fields={"tied_embeddings": False, "kv_heads": 2, "activation": "gelu"}),
    case(tensor=2, model="blocks"),
    case(tensor=2, model="llama"),
    case(expert=2, fields=EVEN),
    case(tensor=2, fields=EVEN),
    case(tensor={"size": 2, "sequence": False}, fields=EVEN),
    case(tensor=2, fields={**EVEN, "hidden": 7}),
    case(context=2, fields=EVEN),
]
ATTENTION = [
    case(model=model, context={"size": 2, "attention": way, "balanced": balanced})
    for model, way, balanced in (
        ("gpt", "ring", False),
        ("gpt", "ring", True),
        ("gpt", "all-gather", True),
        ("full", "ring", False),
        ("full", "ring", True),
        ("full", "all-gather", False),
        ("llama", "ring", False),
    )
]
PIPELINES = [
    case(pipeline=2, fields={"tied_embeddings": False}),
    case(pipeline=2, model="blocks"),
    case(pipeline=2, model="llama"),
    case(pipeline={"size": 2, "schedule": "gpipe"}),
    *(
        case(pipeline={"size": 2, "schedule": schedule}, fields=DEEP)
        for schedule in possible(each for each in SCHEDULES if each not in ("gpipe", "1f1b"))
    ),
]
FOUR = [
    case(replicate=4, exchange=CENTRAL),
    case(replicate=4, exchange={"use": "ring", "compression": "bf16"}, model="blocks"),
    case(shard=4, model="blocks"),
    case(tensor=4),
    case(context=4),
    case(context={"size": 4, "balanced": True}),
    case(context=4, model="full"),
    {**case(pipeline=4, fields={"layers": 5}), "micro_batch": 1},
    case(expert=4, fields=EVEN),
]
REPLICATED = [
    case(replicate=2, shard=2),
    case(replicate=2, shard=2, model="blocks", exchange=CENTRAL),
    case(replicate=2, tensor=2),
    case(replicate=2, context=2, exchange=CENTRAL),
    case(replicate=2, pipeline=2, exchange="ring"),
    case(replicate=2, expert=2, fields=EVEN),
]
PRODUCTS = [
    case(shard=2, tensor=2),
    case(shard=2, context=2),
    case(shard=2, expert=2, fields=EVEN),
    case(tensor=2, context=2, model="full"),
    case(tensor={"size": 2, "sequence": False}, context=2),
    case(pipeline=2, tensor=2),
    case(pipeline={"size": 2, "schedule": "gpipe"}, tensor=2),
    *(
        case(pipeline={"size": 2, "schedule": schedule}, fields=DEEP, **axis)
        for schedule, axis in (
            ("zbv-zero-bubble", {"tensor": {"size": 2, "sequence": False}}),
            ("dualpipe-v", {"context": 2}),
        )
        if possible([schedule])
    ),
    case(pipeline={"size": 2, "schedule": "interleaved-1f1b"}, tensor={"size": 2, "sequence": False}, fields=DEEP),
    case(pipeline=2, context=2),
    case(pipeline=2, shard=2),
    case(pipeline=2, shard={"size": 2, "stage": 1}, model="blocks"),
    case(pipeline=2, expert=2, fields=EVEN),
    case(expert=2, tensor=2, fields=EVEN),
    case(expert=2, tensor={"size": 2, "sequence": False}, fields={**EVEN, "activation": "gelu"}),
    case(expert=2, tensor=2, fields={**EVEN, "hidden": 7}),
    case(expert=2, tensor={"size": 2, "sequence": False}, fields={**EVEN, "hidden": 7}),
    case(expert=2, context=2, fields=EVEN),
    case(expert=2, context={"size": 2, "attention": "all-gather"}, exchange="ring", fields=EVEN),
    case(tensor=2, context=2, fields=EVEN),
]


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        *((2, cases) for cases in (EXCHANGES, ONE_AXIS, ATTENTION, PIPELINES)),
        *((4, cases) for cases in (FOUR, REPLICATED, PRODUCTS)),
    ],
    ids=["exchanges", "one-axis", "attention", "pipelines", "four", "replicated", "products"],
)
def test_every_byte_is_foretold(ranks: int, cases: list[Case]) -> None:
    told = run_world("tests.parallel.sketch.steps:counted", ranks, cases=cases, timeout=60.0 + 5 * len(cases))
    wrong = [
        difference
        for number, each in enumerate(cases)
        for difference in differences(each, [rank[number] for rank in told], foretold(each))
    ]
    assert not wrong, "\n".join(wrong)
