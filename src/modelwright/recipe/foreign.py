"""Classes and functions of the user's own, named in a recipe as ``package.module:Name``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from modelwright.base.choice import import_path, is_import_path
from modelwright.base.errors import ModelwrightError
from modelwright.data import DATA, TOKENIZERS
from modelwright.models import INITIALS, MODELS
from modelwright.objectives import METRICS, OBJECTIVES
from modelwright.optim import AVERAGES, OPTIMIZERS, SCHEDULES
from modelwright.recipe.hints import REQUIRED, Slot, is_simple
from modelwright.recipe.tree import Fields, Leaf, Node, grow

FAMILIES = (DATA, TOKENIZERS, MODELS, INITIALS, OBJECTIVES, METRICS, OPTIMIZERS, SCHEDULES, AVERAGES)
OURS = frozenset(path for family in FAMILIES for path in family.listing.values())
"""The listed techniques. Anything else is foreign, even from our own modules: they import others' functions."""

SUPPLIED: Mapping[str, frozenset[str]] = {
    "model": frozenset({"vocabulary", "features", "classes", "channels", "image_size", "samples"}),
    "objective": frozenset({"model", "batch"}),
    "optimizer": frozenset({"model", "params", "parameters"}),
    "schedule": frozenset({"step", "total"}),
}
"""Arguments that a recipe may leave out because they are given later, by the name of the family."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A class or function of the user's own, and the arguments that the recipe gives it.

    Attributes:
        use: where it is imported from, ``package.module:Name``.
        arguments: keyword arguments.
        where: the place in the recipe, for messages; it does not count in comparisons.
    """

    use: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)

    def target(self) -> Callable[..., Any]:
        """The class or function itself."""
        return import_path(self.use)

    def build(self, *given: Any, **extra: Any) -> Any:
        """Call it with the recipe's arguments, after ``given`` and beside ``extra``.

        Raises:
            ModelwrightError: it raises; names the class, the exception and the place in the recipe.
        """
        return constructed(self.target(), self.use, self.where, *given, **{**self.arguments, **extra})

    def takes(self, name: str) -> bool:
        """Whether it has a parameter of this name."""
        return name in parameters(self.target())[0]

    def needs(self, name: str) -> bool:
        """Whether it has a parameter of this name without a default, and no argument for it."""
        slot = parameters(self.target())[0].get(name)
        return slot is not None and slot.default is REQUIRED and name not in self.arguments


def constructed(target: Callable[..., Any], use: str, where: str, *given: Any, **arguments: Any) -> Any:
    """Call what is not ours; whatever it raises names the class, the exception, its line and the place.

    Raises:
        ModelwrightError: it raised.
    """
    try:
        return target(*given, **arguments)
    except ModelwrightError as error:
        error.where = error.where or where
        raise
    except Exception as error:
        raise ModelwrightError(
            f"'{use}' failed while it was constructed: {type(error).__name__}: {error}",
            where=where,
            remedy=_remedy(error),
        ) from error


def parameters(target: Callable[..., Any]) -> tuple[dict[str, Slot], bool]:
    """The arguments a class or function takes by name, and whether it takes any other name too."""
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # some built-in classes tell nothing
        return {}, True
    hints = _hints(target)
    named = {
        name: Slot(
            path=name,
            hint=hints[name] if is_simple(hints.get(name)) else Any,
            default=REQUIRED if parameter.default is parameter.empty else parameter.default,
        )
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return named, inspect.Parameter.VAR_KEYWORD in kinds


def foreign_classes(text: str, *, source: str = "recipe") -> list[str]:
    """The import paths in a recipe's text that are not modelwright's techniques, sorted; nothing is imported.

    It errs on the safe side: any text that looks like an import path counts, except the run's name.

    Raises:
        ModelwrightError: the text is not YAML.
    """
    root, _ = grow(text, source=source)
    if isinstance(root, Fields):
        root = Fields({key: node for key, node in root.nodes.items() if key != "name"}, root.place)
    return sorted({text for text in _texts(root) if is_import_path(text)} - OURS)


def _texts(node: Node) -> list[str]:
    if isinstance(node, Leaf):
        return [node.value] if isinstance(node.value, str) else []
    children = node.nodes.values() if isinstance(node, Fields) else node.nodes
    return [text for child in children for text in _texts(child)]


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    owner = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(owner, include_extras=True)
    except Exception:  # annotations of others may name anything; without them values are passed as written
        return {}


def _remedy(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"look at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}, or at the arguments in the recipe"
