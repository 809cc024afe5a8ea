"""A tree and a schema to typed values; every mistake on the way is kept, none stops the reading."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Final, get_args, get_origin

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.recipe.foreign import SUPPLIED, Foreign, parameters
from modelwright.recipe.hints import (
    REQUIRED,
    Slot,
    bare,
    default_of,
    family_of,
    is_list,
    is_mapping,
    members,
    names_only,
    slots,
)
from modelwright.recipe.leaves import advice, leaf_value, refusal, shown
from modelwright.recipe.places import Place
from modelwright.recipe.tree import Fields, Items, Leaf, Node, joined, value_of

INVALID: Final = object()


class Reader:
    """Reads one tree.

    Attributes:
        mistakes: everything that was wrong, in the order of the text.
        places: dotted path -> where it was written.
    """

    def __init__(self) -> None:
        self.mistakes: list[ModelwrightError] = []
        self.places: dict[str, Place] = {}

    def read(self, node: Node, slot: Slot) -> Any:
        """The value for a slot, or ``INVALID`` after noting the mistakes."""
        self.places[slot.path] = node.place
        if family := family_of(slot.hint):
            return self._name(node, slot, family) if names_only(slot.hint) else self._technique(node, slot, family)
        if len(members(slot.hint)) > 1:
            return self._alternatives(node, slot)
        if is_dataclass(bare(slot.hint)):
            return self._record(node, slot)
        if is_list(slot.hint):
            return self._list(node, slot)
        if is_mapping(slot.hint):
            return self._mapping(node, slot)
        if slot.hint in (Any, object):
            return value_of(node)
        return self._leaf(node, slot)

    def instance(self, cls: type, node: Fields, slot: Slot, label: str) -> Any:
        """A dataclass from the fields of a mapping."""
        try:
            expected = slots(cls, slot.path)
        except ModelwrightError as error:
            return self._misplaced(error, node.place, slot.path)
        values = self._values(node, slot, expected, label)
        if missing := [name for name, field in expected.items() if _is_missing(name, field, node)]:
            self._missing([expected[name] for name in missing], node, expected, label)
            return INVALID
        if INVALID in values.values():
            return INVALID
        return self._constructed(cls, values, node, slot)

    def _values(
        self, node: Fields, slot: Slot, expected: dict[str, Slot], label: str, free: bool = False
    ) -> dict[str, Any]:
        values = {}
        for name, child in node.nodes.items():
            if name in expected:
                values[name] = self.read(child, expected[name])
            elif free:
                values[name] = value_of(child)
            else:
                what, path = f"{label} has no field '{name}'", joined(slot.path, name)
                self._mistake(what, child.place, path, _unknown(name, expected))
        return values

    def _constructed(self, cls: type, values: dict[str, Any], node: Fields, slot: Slot) -> Any:
        try:
            return cls(**values)
        except ModelwrightError as error:
            if name := _field_of(error, cls, slot.path):
                path = joined(slot.path, name)
                error.remedy = error.remedy or _meaning(name, cls)
                return self._misplaced(error, self._nearest_place(path, node.place), path)
            if node.nodes.keys() - slots(cls).keys():
                return INVALID  # it may well follow from the misspelt field, which is told already
            return self._misplaced(error, node.place, slot.path)
        except Exception as error:
            what = f"'{cls.__module__}:{cls.__qualname__}' refused its fields: {type(error).__name__}: {error}"
            return self._mistake(what, node.place, slot.path)

    def _nearest_place(self, path: str, otherwise: Place) -> Place:
        """The place of a field, or of what it belongs to where it was left at its default."""
        while path and path not in self.places:
            path = path.rpartition(".")[0]
        return self.places.get(path, otherwise)

    def _record(self, node: Node, slot: Slot) -> Any:
        if not isinstance(node, Fields):
            names = ", ".join(slots(bare(slot.hint)))
            return self._refused(node, slot, f"its fields are {names}")
        return self.instance(bare(slot.hint), node, slot, f"'{slot.name}'" if slot.path else "a recipe")

    def _technique(self, node: Node, slot: Slot, family: Family) -> Any:
        use, given = _split(node)
        if use is None:
            return self._without_use(node, slot, family)
        spot = slot.path if node is use else joined(slot.path, "use")
        self.places[joined(slot.path, "use")] = use.place
        if not isinstance(use, Leaf) or not isinstance(use.value, str):
            what = f"'{slot.name}' must name a technique ({family.name}), not {_kind(use)}"
            return self._mistake(what, use.place, spot, _known(family))
        try:
            target = family.resolve(use.value)
        except ModelwrightError as error:
            return self._misplaced(error, use.place, spot)
        label = f"the {family.name} '{use.value}'"
        if isinstance(target, type) and is_dataclass(target):
            return self.instance(target, given, slot, label)
        return self._foreign(target, use.value, given, slot, family)

    def _name(self, node: Node, slot: Slot, family: Family) -> Any:
        """The name of a technique that is looked up later: listed, or an import path."""
        if not isinstance(node, Leaf) or not isinstance(node.value, str):
            return self._refused(node, slot, _known(family))
        if ":" in node.value or node.value in family.listing:
            return node.value
        what = f"there is no {family.name} named '{node.value}'"
        remedy = f"{nearest(node.value, family.listing)} Your own: package.module:Class"
        return self._mistake(what, node.place, slot.path, remedy)

    def _without_use(self, node: Node, slot: Slot, family: Family) -> Any:
        if not isinstance(node, Fields):
            return self._refused(node, slot, _known(family))
        try:
            usual = default_of(slot)
        except ModelwrightError as error:
            return self._misplaced(error, node.place, slot.path)
        if is_dataclass(usual) and not isinstance(usual, type):
            cls = type(usual)
            return self.instance(cls, node, slot, f"the {family.name} '{family.short_name(cls)}'")
        remedy = f"add  use: NAME  below '{slot.name}:'; {_known(family)}"
        return self._mistake(f"'{slot.name}' does not say which technique to use", node.place, slot.path, remedy)

    def _foreign(self, target: Callable[..., Any], use: str, node: Fields, slot: Slot, family: Family) -> Any:
        named, free = parameters(target)
        expected = {name: slot.argument(name, entry.hint) for name, entry in named.items()}
        before = len(self.mistakes)
        arguments = self._values(node, slot, expected, f"'{use}'", free)
        later = SUPPLIED.get(family.name, frozenset())
        missing = [name for name, entry in named.items() if _is_missing(name, entry, node) and name not in later]
        self._missing([expected[name] for name in missing], node, expected, f"'{use}'")
        if len(self.mistakes) > before:
            return INVALID
        return Foreign(use=use, arguments=arguments, where=node.place.of(slot.path))

    def _alternatives(self, node: Node, slot: Slot) -> Any:
        if isinstance(node, Leaf) and node.value is None and type(None) in members(slot.hint):
            return None
        suited = [part for part in members(slot.hint) if part is not type(None) and _suits(node, part)]
        if len(suited) == 1:
            return self.read(node, slot.of(suited[0]))
        for part in suited:
            attempt = Reader()
            value = attempt.read(node, slot.of(part))
            if not attempt.mistakes:
                self.places |= attempt.places
                return value
        return self._refused(node, slot)

    def _list(self, node: Node, slot: Slot) -> Any:
        if not isinstance(node, Items):
            hint = f"write  {slot.name}: [{node.value}]" if isinstance(node, Leaf) and node.value is not None else ""
            return self._refused(node, slot, hint)
        kinds = get_args(bare(slot.hint)) or (Any, ...)
        container = get_origin(bare(slot.hint)) or bare(slot.hint)
        if container is not tuple or Ellipsis in kinds:
            kinds = (kinds[0],) * len(node.nodes)
        if len(kinds) != len(node.nodes):
            what = f"'{slot.name}' must have {len(kinds)} values, not {len(node.nodes)}"
            return self._mistake(what, node.place, slot.path, advice(slot))
        values = [
            self.read(child, slot.part(index, kind))
            for index, (child, kind) in enumerate(zip(node.nodes, kinds, strict=True))
        ]
        if INVALID in values:
            return INVALID
        return values if container is list else tuple(values)

    def _mapping(self, node: Node, slot: Slot) -> Any:
        if not isinstance(node, Fields):
            return self._refused(node, slot)
        _, kind = get_args(bare(slot.hint)) or (str, Any)
        values = {name: self.read(child, slot.part(name, kind)) for name, child in node.nodes.items()}
        return INVALID if INVALID in values.values() else values

    def _leaf(self, node: Node, slot: Slot) -> Any:
        if not isinstance(node, Leaf):
            return self._refused(node, slot)
        try:
            return leaf_value(node.value, slot)
        except ModelwrightError as error:
            return self._misplaced(error, node.place, slot.path)

    def _missing(self, wanted: list[Slot], node: Fields, expected: dict[str, Slot], label: str) -> None:
        misspelt = {_unknown(name, expected) for name in node.nodes if name not in expected}
        for slot in wanted:
            if f"did you mean '{slot.name}'?" not in misspelt:
                what = f"{label} needs '{slot.name}', which is missing"
                self._mistake(what, node.place, slot.path, _to_add(slot))

    def _refused(self, node: Node, slot: Slot, remedy: str = "") -> Any:
        return self._misplaced(refusal(_kind(node), slot, remedy), node.place, slot.path)

    def _misplaced(self, error: ModelwrightError, place: Place, path: str) -> Any:
        error.where = place.of(path)
        self.mistakes.append(error)
        return INVALID

    def _mistake(self, what: str, place: Place, path: str, remedy: str = "") -> Any:
        return self._misplaced(ModelwrightError(what, remedy=remedy), place, path)


def _split(node: Node) -> tuple[Node | None, Fields]:
    """The name of the technique and the fields it is given."""
    if isinstance(node, Fields):
        rest = {name: child for name, child in node.nodes.items() if name != "use"}
        return node.nodes.get("use"), Fields(rest, node.place)
    named = node if isinstance(node, Leaf) and isinstance(node.value, str) else None
    return named, Fields({}, node.place)


def _suits(node: Node, hint: Any) -> bool:
    if isinstance(node, Fields):
        return bool(family_of(hint)) or is_dataclass(bare(hint)) or is_mapping(hint)
    if isinstance(node, Items):
        return is_list(hint)
    return not (is_list(hint) or is_mapping(hint) or (is_dataclass(bare(hint)) and not family_of(hint)))


def _is_missing(name: str, slot: Slot, node: Fields) -> bool:
    return slot.default is REQUIRED and name not in node.nodes


def _kind(node: Node) -> str:
    if isinstance(node, Leaf):
        return "empty" if node.value is None else shown(node.value)
    return "a list" if isinstance(node, Items) else "a mapping (name: value)"


def _known(family: Family) -> str:
    return f"known: {', '.join(sorted(family.listing))}"


def _to_add(slot: Slot) -> str:
    if family := family_of(slot.hint):
        return f"add  {slot.name}: NAME; {_known(family)}"
    doc = f" ({slot.doc.rstrip('.')})" if slot.doc else ""
    return f"add  {slot.name}: ...{doc}"


def _unknown(name: str, expected: dict[str, Slot]) -> str:
    return nearest(name, expected) or "it takes no fields; leave this line out"


def _meaning(path: str, cls: type) -> str:
    slot = slots(cls).get(path)
    return advice(slot) if slot else ""


def _field_of(error: ModelwrightError, cls: type, path: str) -> str:
    """The field (or dotted path) that a technique's error speaks of: its ``where``, or the first word of ``what``.

    A ``where`` may be told from the whole recipe, or from the technique at ``path``.
    """
    first = re.match(r"(?:[\w-]+: )?\W*(\w+)", error.what)
    known = slots(cls)
    spoken = (error.where.removeprefix(f"{path}."), error.where, first[1] if first else "")
    return next((word for word in spoken if word.partition(".")[0] in known), "")
