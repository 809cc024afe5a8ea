"""The verb ``data`` of the command line: shards of tokens. No logic lives here, and nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from modelwright.base.choice import Family
from modelwright.cli.base import Json, console, print_json, show, verb

VERBS = Family(
    "verb",
    {
        "build": "modelwright.app.data.build:build",
        "built": "modelwright.app.data.build:built",
        "check": "modelwright.app.data.check:check",
        "checked": "modelwright.app.data.check:checked",
        "stats": "modelwright.app.data.stats:stats",
        "counted": "modelwright.app.data.stats:counted",
        "show": "modelwright.app.data.show:show",
        "shown": "modelwright.app.data.show:shown",
    },
)

data_app = typer.Typer(help="Build, check and look at shards of tokens.", no_args_is_help=True)

Shards = Annotated[str, typer.Argument(help="A folder of shards, or its URL such as s3://bucket/folder.")]


def _do(name: str, *args: Any, **kwargs: Any) -> Any:
    return VERBS.resolve(name)(*args, **kwargs)


@data_app.command("build")
@verb
def data_build(
    output: Annotated[Path, typer.Option("--out", "-o", help="The folder that is written.")],
    recipe: Annotated[str | None, typer.Argument(help="A recipe whose data is text; or give --files.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Dotted overrides of the recipe.")] = None,
    files: Annotated[list[str] | None, typer.Option("--files", help="A pattern; may be given again.")] = None,
    root: Annotated[str | None, typer.Option(help="The folder that patterns start from.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The column of .jsonl, .parquet, .csv, ... that holds the text.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="byte, bpe:VOCABULARY or local:FOLDER.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Part of the documents to judge by; of --files.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses which; of --files.")] = None,
    shard_size: Annotated[str, typer.Option(help="Text of one shard, about.")] = "64MiB",
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Make shards of tokens from text, or go on with what was begun: the same bytes however many workers."""
    facts = _do(
        "build",
        recipe,
        overrides or [],
        folder=output,
        files=files or [],
        root=root,
        text=text,
        tokenizer=tokenizer,
        held_out=held_out,
        seed=seed,
        shard_size=shard_size,
        workers=workers,
        console=console(as_json),
    )
    print_json(facts) if as_json else show(_do("built", facts))


@data_app.command("check")
@verb
def data_check(
    path: Shards,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Note damaged shards beside the manifest, for on_damage: quarantine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every hash; names each file that is missing, cut short or altered, and leaves with 2."""
    facts = _do("check", path, quarantine=quarantine, console=Console(stderr=True))
    print_json(facts) if as_json else show(_do("checked", facts))
    if facts["damaged"]:
        raise typer.Exit(2)


@data_app.command("stats")
@verb
def data_stats(
    path: Shards,
    context: Annotated[list[int] | None, typer.Option(help="Tokens in a window; may be given again.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Documents, tokens and bytes, and how many windows there are."""
    facts = _do("stats", path, context or [256, 1024, 4096])
    print_json(facts) if as_json else show(_do("counted", facts))


@data_app.command("show")
@verb
def data_show(
    path: Shards,
    count: Annotated[int, typer.Option("--n", help="How many samples.", min=1)] = 3,
    context: Annotated[int, typer.Option(help="Tokens in a window.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the order, as a recipe's.")] = 0,
    as_json: Json = False,
) -> None:
    """The first samples of the order, as a model sees them."""
    rows = _do("show", path, count=count, context=context, seed=seed)
    print_json(rows) if as_json else show(_do("shown", rows))
