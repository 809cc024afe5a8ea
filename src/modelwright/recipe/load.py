"""A recipe from YAML: found, read, overridden, checked; all mistakes are reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Generic, TypeVar

from modelwright.base.errors import ModelwrightError, nearest, raise_all
from modelwright.recipe.hints import Slot, bare, slots
from modelwright.recipe.override import overridden
from modelwright.recipe.places import Place
from modelwright.recipe.reader import Reader
from modelwright.recipe.schema import Recipe
from modelwright.recipe.tree import Fields, Leaf, Node, grow

T = TypeVar("T")
_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What was read, and where each value was written.

    Attributes:
        recipe: the typed values.
        places: dotted path -> place, for everything that was written.
        source: the file as the user named it.
    """

    recipe: T
    places: Mapping[str, Place]
    source: str

    def where(self, path: str) -> str:
        """The place for a message about a field, also of one that was left at its default."""
        if path in self.places:
            return self.places[path].of(path)
        above = path
        while above:
            above = above.rpartition(".")[0]
            if above in self.places and self.places[above].line:
                return f"{self.places[above]} ({path}, by default)"
        return f"{self.source} ({path}, by default)"

    def origin(self, path: str) -> str:
        """Where a value comes from: ``recipe.yaml:12``, ``command line``, or ``default``."""
        return str(self.places[path]) if path in self.places else "default"


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, of a shipped name, or of YAML text; see :func:`load`."""
    return load(source, overrides).recipe


def load(source: str | Path, overrides: Sequence[str] = ()) -> Loaded[Recipe]:
    """Read a recipe and remember where each value was written.

    Args:
        source: a path, the name of a shipped recipe, or YAML text (a string with a line break or ``: ``).
        overrides: texts ``path=value``; they win over the file.

    Raises:
        ModelwrightError, Mistakes: no such file, or mistakes in it; every one names its place.
    """
    text, name = read_source(source)
    return read(text, Recipe, source=name, overrides=overrides)


def read(text: str, schema: type[T], *, source: str = "recipe", overrides: Sequence[str] = ()) -> Loaded[T]:
    """Read YAML text into a dataclass.

    Raises:
        ModelwrightError, Mistakes: everything that is wrong with it.
    """
    root, mistakes = grow(text, source=source)
    reader = Reader()
    value = reader.instance(
        schema,
        overridden(_mapping(root, source), overrides, _exclusive(schema)),
        Slot(path="", hint=schema),
        "a recipe",
    )
    raise_all([*mistakes, *reader.mistakes])
    return Loaded(value, {path: place for path, place in reader.places.items() if path}, source)


def shipped() -> dict[str, str]:
    """The recipes that come with the package: name -> text."""
    folder = files("modelwright") / "recipes"
    if not folder.is_dir():
        return {}
    found = [entry for entry in folder.iterdir() if entry.name.endswith(_ENDINGS)]
    return {entry.name.rpartition(".")[0]: entry.read_text(encoding="utf-8") for entry in found}


def read_source(source: str | Path) -> tuple[str, str]:
    """The text of a recipe and how to name it in messages.

    Raises:
        ModelwrightError: there is no such file or shipped recipe, or it is not text.
    """
    if isinstance(source, str) and ("\n" in source or ": " in source or not source.strip()):
        return source, "recipe"
    path = Path(source)
    if path.is_file():
        return _file_text(path), str(source)
    if path.is_dir():
        raise ModelwrightError("this is a folder, not a recipe", where=str(source), remedy=_files_hint(path))
    known = shipped()
    if str(source) in known:
        return known[str(source)], f"{source}.yaml"
    raise ModelwrightError(f"there is no recipe '{source}'", where=str(path.absolute()), remedy=_hint(path, known))


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelwrightError(
            f"this is not text in UTF-8: {error.reason} at byte {error.start}",
            where=str(path),
            remedy="a recipe is a YAML text file; save it as UTF-8",
        ) from error
    except OSError as error:
        raise ModelwrightError(f"cannot read the recipe: {error.strerror}", where=str(path)) from error


def _hint(path: Path, known: Mapping[str, str]) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir() if entry.suffix in _ENDINGS] if folder.is_dir() else []
    close = nearest(path.name, [*names, *known])
    if close.startswith("did you mean") or not known:
        return close or "name a YAML file"
    return f"name a YAML file, or a shipped recipe: {', '.join(sorted(known))}"


def _files_hint(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _ENDINGS)
    return f"name a file in it: {', '.join(names[:5])}" if names else "name a YAML file"


def _mapping(root: Node, source: str) -> Fields:
    if isinstance(root, Fields):
        return root
    if isinstance(root, Leaf) and root.value is None:
        raise ModelwrightError(
            "the recipe is empty",
            where=source,
            remedy="start from a shipped one, or write  model: NAME  and so on",
        )
    raise ModelwrightError(
        "a recipe is a mapping with lines such as  model: NAME",
        where=root.place.of(""),
        remedy="write  name: value",
    )


def _exclusive(schema: type) -> frozenset[str]:
    return frozenset(name for name, slot in slots(schema).items() if getattr(bare(slot.hint), "exactly_one", False))
