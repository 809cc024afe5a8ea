"""Overrides typed on the command line: ``optimizer.lr=3e-4``, ``model.use=mlp``, ``budget.time=90s``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelwright.base.errors import ModelwrightError, raise_all
from modelwright.base.events import emit
from modelwright.recipe.places import Place
from modelwright.recipe.tree import Fields, Items, Leaf, Node, grow, joined

_MARKS = tuple("*&!%@`|>")


@dataclass(frozen=True)
class Override:
    """One override.

    Attributes:
        keys: the parts of the dotted path.
        value: what is put there.
        text: as it was typed.
    """

    keys: tuple[str, ...]
    value: Node
    text: str

    @property
    def place(self) -> Place:
        """Where a mistake in it is to be mended."""
        return Place(override=self.text)

    @property
    def depth(self) -> int:
        """Levels below the recipe; naming a technique counts as setting the whole choice."""
        return len(self.keys) - (self.keys[-1] == "use")


def parse(text: str) -> Override:
    """An override from ``path=value``; the value is read as YAML.

    Raises:
        ModelwrightError: no ``=``, no path, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    keys = tuple(path.strip().split("."))
    if not equals or not all(keys):
        raise ModelwrightError(
            f"'{text}' is not an override",
            where=f"command line ({text})",
            remedy="write  path=value, for example  optimizer.lr=3e-4",
        )
    if value.lstrip().startswith(_MARKS):  # marks of YAML that mean nothing here: *.py is a pattern
        return Override(keys, Leaf(value.strip(), Place(override=text)), text)
    node, mistakes = grow(value, source="command line", override=text)
    raise_all(mistakes)
    return Override(keys, node, text)


def overridden(tree: Fields, overrides: Sequence[str], exclusive: frozenset[str] = frozenset()) -> Fields:
    """The tree with the overrides put in.

    Setting a whole part comes before setting fields in it, whatever their order; for one field the last
    counts. Where an override names another technique, the fields of the old one are dropped, and an event
    says so; the same with the kinds of a budget.

    Args:
        tree: the recipe as written.
        overrides: texts ``path=value``.
        exclusive: paths of parts of which exactly one field is given, such as ``budget``.

    Raises:
        ModelwrightError, Mistakes: what is wrong with the overrides, all of it.
    """
    mistakes: list[ModelwrightError] = []
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(parse(text))
        except ModelwrightError as error:
            mistakes.append(error)
    node: Node = tree
    for override in sorted(parsed, key=lambda override: override.depth):
        try:
            node = _assigned(node, override.keys, override, "", exclusive)
        except ModelwrightError as error:
            mistakes.append(error)
    raise_all(mistakes)
    assert isinstance(node, Fields)
    return node


def _assigned(
    node: Node | None, keys: tuple[str, ...], override: Override, path: str, exclusive: frozenset[str]
) -> Node:
    if not keys:
        return _replaced(node, override, path)
    key, *rest = keys
    below = joined(path, key)
    if isinstance(node, Items):
        index = _index(node, key, override, path)
        parts = list(node.nodes)
        parts[index] = _assigned(parts[index], tuple(rest), override, below, exclusive)
        return Items(parts, node.place)
    fields = _opened(node, override)
    if keys == ("use",):
        return _switched(fields, override, path)
    if path in exclusive:
        fields = _only(fields, key, override, path)
    child = _assigned(fields.nodes.get(key), tuple(rest), override, below, exclusive)
    return Fields({**fields.nodes, key: child}, fields.place)


def _opened(node: Node | None, override: Override) -> Fields:
    """The node as a mapping; a bare name of a technique becomes its ``use``."""
    if isinstance(node, Fields):
        return node
    if isinstance(node, Leaf) and isinstance(node.value, str):
        return Fields({"use": node}, node.place)
    return Fields({}, override.place)


def _replaced(old: Node | None, override: Override, path: str) -> Node:
    new = override.value
    if isinstance(old, Fields) and "use" in old.nodes and isinstance(new, Leaf) and isinstance(new.value, str):
        return _switched(old, override, path)
    return new


def _switched(old: Fields, override: Override, path: str) -> Fields:
    """The choice with another technique; its fields stay only where the technique stays."""
    before, after = old.nodes.get("use"), override.value
    if not (isinstance(before, Leaf) and isinstance(after, Leaf)) or before.value == after.value:
        return Fields({**old.nodes, "use": after}, old.place)
    dropped = {name: node for name, node in old.nodes.items() if name != "use"}
    if dropped:
        _tell(dropped, override, f"they belonged to '{before.value}'", path)
    return Fields({"use": after}, override.place)


def _only(fields: Fields, key: str, override: Override, path: str) -> Fields:
    """Without the fields of the file that cannot stand beside ``key``."""
    rivals = {name: node for name, node in fields.nodes.items() if name != key and not node.place.override}
    if not rivals:
        return fields
    _tell(rivals, override, f"'{path}' takes one field", path)
    return Fields({name: node for name, node in fields.nodes.items() if name not in rivals}, override.place)


def _tell(dropped: Mapping[str, Node], override: Override, reason: str, path: str) -> None:
    names = [joined(path, name) for name in dropped]
    places = [str(node.place) for node in dropped.values()]
    listed = ", ".join(f"{name} ({place})" for name, place in zip(names, places, strict=True))
    emit(
        "override-dropped",
        f"the override '{override.text}' leaves out {listed}: {reason}",
        override=override.text,
        dropped=names,
    )


def _index(node: Items, key: str, override: Override, path: str) -> int:
    if key.isdecimal() and int(key) < len(node.nodes):
        return int(key)
    raise ModelwrightError(
        f"'{path}' is a list of {len(node.nodes)}, it has no part '{key}'",
        where=override.place.of(path),
        remedy=f"its parts are counted from 0: {path}.0" if node.nodes else f"write  {path}=[...]",
    )
