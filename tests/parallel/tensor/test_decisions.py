"""Which dims are divided: Megatron's pattern in every transformer, by what models compute and not by their names."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from tests.graph import zoo
from tests.parallel.tensor.models import OTHERS, TRANSFORMERS, cross_entropy, gpt, renamed

import modelwright.parallel.layouts
import modelwright.parallel.tensor
from modelwright.base.errors import ModelwrightError
from modelwright.graph import trace
from modelwright.parallel.layouts.tensor import Tensor
from modelwright.parallel.regions import regions
from modelwright.parallel.tensor import Decision, derive

LLAMA = {
    "q_proj": "dim 0: 1 of 2 groups of heads",
    "k_proj": "dim 0: 1 of 2 groups of heads",
    "v_proj": "dim 0: 1 of 2 groups of heads",
    "o_proj": "dim 1: 1 of 2 groups of heads",
    "gate_proj": "dim 0: 20 of 40 units",
    "up_proj": "dim 0: 20 of 40 units",
    "down_proj": "dim 1: 20 of 40 units",
    "embed_tokens": "dim 0: 25 of 50 rows",
    "lm_head": "dim 0: 25 of 50 units",
    "layernorm": "norms reduce over it",
}
PATTERNS: dict[str, dict[str, str]] = {
    "llama": LLAMA,
    "qwen2": {**LLAMA, "q_proj.bias": "dim 0: 1 of 2 groups of heads"},
    "mistral": LLAMA,
    "gpt2": {
        "c_attn": "2 of 4 heads",
        "attn.c_proj.weight": "dim 0: 2 of 4 heads",
        "attn.c_proj.bias": "norms reduce over it",
        "c_fc": "48 of 96 units",
        "mlp.c_proj.weight": "dim 0: 48 of 96 units",
        "wte": "dim 0: 25 of 50 rows",
        "wpe": "its rows are places that the code counts",
    },
    "bert": {
        "self.query": "dim 0: 2 of 4 heads",
        "self.key.weight": "dim 0: 2 of 4 heads",
        "self.value.bias": "dim 0: 2 of 4 heads",
        "attention.output.dense.weight": "dim 1: 2 of 4 heads",
        "intermediate.dense": "dim 0: 20 of 40 units",
        "word_embeddings": "dim 0: 25 of 50 rows",
        "position_embeddings": "its rows are places that the code counts",
    },
    "t5": {
        "relative_attention_bias": "dim 1: 2 of 4 heads",
        "EncDecAttention.k": "dim 0: 2 of 4 heads",
        "DenseReluDense.wo": "dim 1: 20 of 40 units",
        "shared": "dim 0: 25 of 50 rows",
    },
    "whisper": {
        "encoder_attn.q_proj": "dim 0: 2 of 4 heads",
        "fc1": "dim 0: 20 of 40 units",
        "embed_tokens": "dim 0: 25 of 50 rows",
    },
    "bloom": {"query_key_value": "dim 0: 2 of 4 heads", "dense_4h_to_h.weight": "dim 1: 48 of 96 units"},
    "phi3": {"qkv_proj": "dim 0: 1 of 2 groups of heads", "gate_up_proj": "dim 0: 20 of 40 units"},
    "convnet": {"blocks.0.first.weight": "dim 0: 2 of 4 channels", "blocks.0.second.weight": "dim 1: 2 of 4 channels"},
    "mlp": {"layers.0": "dim 0: 6 of 12 units", "layers.1.weight": "dim 1: 6 of 12 units", "head": "5 units do not"},
}


def decided(name: str, size: int = 2) -> Decision:
    return derive(zoo.traced(name)[2], size)


def of_gpt(size: int, pins: dict[str, Any] | None = None, **settings: Any) -> Decision:
    model, inputs = gpt(**settings)
    return derive(trace(model, inputs, loss=cross_entropy), size, pins=pins)


def hows(decision: Decision) -> dict[str, str]:
    return {row.name: row.how for row in decision.rows}


@pytest.mark.parametrize("name", PATTERNS)
def test_heads_units_and_vocabularies_are_found(name: str) -> None:
    found = hows(decided(name))
    for part, how in PATTERNS[name].items():
        matching = {row: text for row, text in found.items() if part in row}
        assert matching, part
        assert {row: text for row, text in matching.items() if how not in text} == {}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nine_tenths_of_every_block_are_divided(name: str) -> None:
    model, _, graph = zoo.traced(name)
    decision = decided(name)
    blocks = tuple(f"{region}." for region in regions(model)) or ("model.encoder.layers", "model.decoder.layers")
    inside = [each for each in graph.parameters if each.startswith(blocks)]
    whole = sum(graph.parameters[each].bytes for each in inside)
    assert sum(graph.parameters[each].bytes for each in inside if each in decision.divisions) >= 0.9 * whole


@pytest.mark.parametrize("name", (*TRANSFORMERS, *OTHERS, "bloom", "phi3"))
def test_other_names_change_nothing(name: str) -> None:
    model, graph = renamed(name)
    decision, other = decided(name), derive(graph, 2)
    found = {model.called[each]: division for each, division in decision.divisions.items()}
    assert other.divisions == found
    assert other.sent == decision.sent


def _modules(name: str) -> set[str]:
    model, _ = zoo.case(name)
    classes = {type(module).__name__ for module in model.modules() if not type(module).__module__.startswith("torch.")}
    return classes | {part for each, _ in model.named_parameters() for part in each.split(".") if not part.isdecimal()}


def _texts(path: Path) -> set[str]:
    """Attributes and strings of a file, those that document it left out."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents
    }


# Names of operators and of their arguments, and words of this package, which some models use too.
WORDS = {"embedding", "convolution", "query", "key", "weight", "bias", "self"}
WORDS |= {"attention", "blocks", "head", "model", "norm", "stages"}


def test_no_architecture_is_named() -> None:
    names = set().union(*(_modules(each) for each in zoo.NAMES)) - WORDS
    assert {"q_proj", "c_attn", "LlamaMLP", "feed_forward", "GPTModule"} <= names
    folders = [Path(*package.__path__) for package in (modelwright.parallel.layouts, modelwright.parallel.tensor)]
    files = [path for folder in folders for path in folder.glob("*.py")]
    assert len(files) > 5
    assert {path.name: sorted(found) for path in files if (found := _texts(path) & names)} == {}


def test_heads_that_do_not_divide_stay_whole_and_say_so() -> None:
    found = hows(of_gpt(4, heads=6, width=24, hidden=32))
    assert found["blocks.*.attention.query.weight"] == "6 heads do not divide over 4"
    assert found["blocks.*.feed_forward.up.weight"] == "dim 0: 8 of 32 units"
    uneven = {row.name for row in of_gpt(4, heads=6, width=24, hidden=32).rows if row.uneven}
    assert uneven == {f"blocks.*.attention.{name}.weight" for name in ("query", "key")}
    assert not any(row.uneven for row in of_gpt(4).rows)


def test_queries_are_divided_within_groups_where_groups_are_too_few() -> None:
    found = hows(of_gpt(4, heads=8, kv_heads=2))
    assert found["blocks.*.attention.query.weight"] == "dim 0: 1 of 4 heads of each group"
    assert found["blocks.*.attention.output.weight"] == "dim 1: 1 of 4 heads of each group"
    assert found["blocks.*.attention.key.weight"] == "2 groups of heads do not divide over 4"
    shared = hows(of_gpt(4, heads=4, kv_heads=2))
    assert shared["blocks.*.attention.query.weight"] == "2 groups of heads do not divide over 4"


def test_a_user_pins_parameters() -> None:
    whole = of_gpt(2, pins={"blocks.*.up.weight": None, "embedding.weight": None})
    assert hows(whole)["blocks.*.feed_forward.up.weight"] == "pinned whole"
    assert "head.weight" not in whole.divisions
    assert "blocks.0.feed_forward.down.weight" in whole.divisions
    residual = of_gpt(2, pins={"blocks.0.feed_forward.up.weight": 1})
    assert hows(residual)["blocks.*.attention.query.weight"] == "dim 1: 8 of 16 units"


@pytest.mark.parametrize(
    ("pins", "word"),
    [
        ({"blocks.*.upp.weight": 0}, "no parameter is called"),
        ({"norm.weight": 1}, "has no dim 1"),
        ({"blocks.0.attention.query.weight": 0}, "4 heads do not divide over 3"),
        ({"norm.weight": 0}, "16 units do not divide over 3"),
    ],
)
def test_pins_that_cannot_be_are_refused(pins: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelwrightError, match=word):
        of_gpt(3, pins=pins, activation="gelu")


def test_kernels_are_not_divided() -> None:
    with pytest.raises(ModelwrightError, match="neighbours are mixed"):
        derive(zoo.traced("convnet")[2], 3, pins={"blocks.0.first.weight": 2})
    with pytest.raises(ModelwrightError, match="number of a dim"):
        Tensor(pins={"a": "rows"})  # type: ignore[dict-item]


def test_a_decision_is_a_table() -> None:
    decision = of_gpt(2)
    assert json.loads(json.dumps(decision.to_json()))["size"] == 2
    lines = decision.text().splitlines()
    assert len(lines) == len(decision.rows) + 1
    assert "[16, 16]  [8, 16]" in next(line for line in lines if "query" in line)
    held = sum(row.bytes for row in decision.rows)
    graph = trace(*gpt(), loss=cross_entropy)
    whole = {name: value.bytes for name, value in graph.parameters.items() if name != "head.weight"}
    assert held == sum(size // 2 if name in decision.divisions else size for name, size in whole.items())
