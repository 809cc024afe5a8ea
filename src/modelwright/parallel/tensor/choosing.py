"""Choosing: which classes are divided, where two cannot both be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping

_EXACT = 16

Rivals = Mapping[int, set[int]]


def choose(benefits: Mapping[int, float], rivals: Rivals, alike: Callable[[int], Hashable]) -> set[int]:
    """Classes without rivals among them that together bring most; alike ones are chosen alike where they can be."""
    groups = _groups(benefits, rivals, alike)
    worth = [sum(benefits[each] for each in group) for group in groups]
    number = {each: place for place, group in enumerate(groups) for each in group}
    enemies = [
        {number[other] for each in group for other in rivals.get(each, ()) if other in number} for group in groups
    ]
    chosen: set[int] = set()
    for component in _components(enemies):
        useful = [place for place in component if worth[place] > 0]
        picked = _best(useful, worth, enemies) if len(useful) <= _EXACT else _greedy(useful, worth, enemies)
        chosen.update(each for place in picked for each in groups[place])
    return chosen


def _groups(benefits: Mapping[int, float], rivals: Rivals, alike: Callable[[int], Hashable]) -> list[list[int]]:
    together: dict[Hashable, list[int]] = defaultdict(list)
    for each in benefits:
        together[alike(each)].append(each)
    found: list[list[int]] = []
    for group in together.values():
        torn = any(rivals.get(each, set()) & set(group) for each in group)
        found += [[each] for each in group] if torn else [group]
    return found


def _components(enemies: list[set[int]]) -> list[list[int]]:
    found, seen = [], set[int]()
    for start in range(len(enemies)):
        if start in seen:
            continue
        component, todo = [], [start]
        while todo:
            place = todo.pop()
            if place not in seen:
                seen.add(place)
                component.append(place)
                todo += enemies[place]
        found.append(sorted(component))
    return found


def _best(places: list[int], worth: list[float], enemies: list[set[int]]) -> list[int]:
    """All sets are tried."""
    if not places:
        return []
    first, rest = places[0], places[1:]
    taken = [first, *_best([each for each in rest if each not in enemies[first]], worth, enemies)]
    if enemies[first].isdisjoint(rest):
        return taken
    left = _best(rest, worth, enemies)
    return taken if sum(worth[each] for each in taken) >= sum(worth[each] for each in left) else left


def _greedy(places: list[int], worth: list[float], enemies: list[set[int]]) -> list[int]:
    chosen: list[int] = []
    for place in sorted(places, key=lambda place: -worth[place]):
        if enemies[place].isdisjoint(chosen):
            chosen.append(place)
    return chosen
