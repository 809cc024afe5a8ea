"""YAML text to a tree in which every value knows its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from modelwright.base.errors import ModelwrightError
from modelwright.recipe.places import Place
from modelwright.recipe.scalars import Scalar, scalar

_STANDARD = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Leaf:
    """A number, text, truth value or nothing."""

    value: Scalar
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    nodes: Sequence[Node]
    place: Place


@dataclass(frozen=True)
class Fields:
    """A mapping; the place of each value is the place of its key."""

    nodes: Mapping[str, Node]
    place: Place


Node = Leaf | Items | Fields


@dataclass
class _Growing:
    """What is shared while one text is turned into a tree."""

    source: str
    override: str
    mistakes: list[ModelwrightError] = field(default_factory=list)
    open_nodes: list[int] = field(default_factory=list)

    def place(self, mark: yaml.Mark) -> Place:
        return Place(source=self.source, line=mark.line + 1, column=mark.column + 1, override=self.override)

    def mistake(self, what: str, mark: yaml.Mark, path: str, remedy: str) -> None:
        self.mistakes.append(ModelwrightError(what, where=self.place(mark).of(path), remedy=remedy))


def grow(text: str, *, source: str, override: str = "") -> tuple[Node, list[ModelwrightError]]:
    """The tree of a YAML text, and the mistakes that do not hinder reading on (keys given twice).

    Raises:
        ModelwrightError: the text is not YAML; the place is the line.
    """
    growing = _Growing(source, override)
    start = Place(source=source, line=1, column=1, override=override)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        node = Leaf(None, start) if root is None else _node(root, growing, "", start)
    except yaml.YAMLError as error:
        raise _syntax(error, growing) from error
    except RecursionError as error:
        raise ModelwrightError(
            "the values are nested too deeply", where=start.of(""), remedy="a recipe needs few levels"
        ) from error
    return node, growing.mistakes


def value_of(node: Node) -> object:
    """The tree as plain Python values."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, Items):
        return [value_of(item) for item in node.nodes]
    return {key: value_of(item) for key, item in node.nodes.items()}


def joined(path: str, name: object) -> str:
    """The dotted path of a part: ``optimizer`` and ``lr`` -> ``optimizer.lr``."""
    return f"{path}.{name}" if path else str(name)


def _node(node: yaml.Node, growing: _Growing, path: str, place: Place) -> Node:
    if id(node) in growing.open_nodes:
        growing.mistake("this value contains itself", node.start_mark, path, "write it out without an alias")
        return Leaf(None, place)
    if not node.tag.startswith(_STANDARD) or node.tag.startswith(f"{_STANDARD}python"):
        tag = node.tag.replace(_STANDARD, "!!")
        growing.mistake(f"the tag '{tag}' means nothing here", node.start_mark, path, "leave it out")
    if isinstance(node, yaml.ScalarNode):
        return Leaf(scalar(node.value) if node.style is None else node.value, place)
    growing.open_nodes.append(id(node))
    grown = (
        _fields(node, growing, path, place)
        if isinstance(node, yaml.MappingNode)
        else (_items(node, growing, path, place))
    )
    growing.open_nodes.pop()
    return grown


def _items(node: yaml.Node, growing: _Growing, path: str, place: Place) -> Items:
    parts = [
        _node(item, growing, joined(path, index), growing.place(item.start_mark))
        for index, item in enumerate(node.value)
    ]
    return Items(parts, place)


def _fields(node: yaml.MappingNode, growing: _Growing, path: str, place: Place) -> Fields:
    nodes: dict[str, Node] = {}
    for key_node, value_node in node.value:
        mark, key = key_node.start_mark, key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            growing.mistake("a field's name must be a word", mark, path, "write  name: value")
        elif key_node.tag == f"{_STANDARD}merge":
            growing.mistake("merging with '<<' is not understood", mark, path, "write the fields out")
        elif key in nodes:
            growing.mistake(
                f"'{key}' is given twice",
                mark,
                joined(path, key),
                f"the first is at {nodes[key].place}; keep one",
            )
        else:
            nodes[key] = _node(value_node, growing, joined(path, key), growing.place(mark))
    return Fields(nodes, place)


def _syntax(error: yaml.YAMLError, growing: _Growing) -> ModelwrightError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = growing.place(mark).of("") if mark else growing.override or growing.source
    if mark and not growing.override:
        where = f"{where}, column {mark.column + 1}"
    return ModelwrightError(f"this is not YAML: {problem}", where=where, remedy=_syntax_remedy(problem))


def _syntax_remedy(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return "put text that contains ': ' in quotes, and check that this line is indented like its neighbours"
    if "undefined alias" in problem or "alphabetic or numeric" in problem:
        return "put text that begins with * or & in quotes"
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return "check that this line and the one above are indented alike, and that each has  name: value"
    if "expected ',' or" in problem:
        return "close the bracket that was opened, and put a comma between its values"
    return "check the quotes, brackets and indentation of this line and the one above"
