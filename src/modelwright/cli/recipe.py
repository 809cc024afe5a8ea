"""The commands ``modelwright recipe ...``: what a recipe and its layout mean, its schema, what is shipped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.base import Json, Overrides, RecipeArgument, do, out, print_json, show, verb

recipe_app = typer.Typer(help="Show what a recipe means; print its schema for editors.", no_args_is_help=True)


@recipe_app.command("show")
@verb
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """The resolved recipe, each value with its origin."""
    rows = do("recipe show", recipe, overrides or [])
    print_json(rows) if as_json else out.print(do("recipe shown", rows))


@recipe_app.command("layout")
@verb
def recipe_layout(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """How plan.layout would divide the model over workers, and what each would hold; nothing is started."""
    told = do("recipe layout", recipe, overrides or [], aside=as_json)
    print_json(told) if as_json else out.print(do("recipe laid out", told), highlight=False)


@recipe_app.command("schema")
@verb
def recipe_schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file.")] = None,
    as_json: Json = False,
) -> None:
    """The JSON Schema of recipes, always as JSON; with --output the line that makes editors use it."""
    text = do("recipe schema", output)
    if as_json and output is not None:
        return print_json({"schema": str(output), "line": text})
    sys.stdout.write(text + "\n")


@recipe_app.command("list")
@verb
def recipe_list(as_json: Json = False) -> None:
    """The recipes that come with modelwright, and what each is."""
    rows = do("recipe list")
    print_json(rows) if as_json else show(do("recipe listed", rows))
