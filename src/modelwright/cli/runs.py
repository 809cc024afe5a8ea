"""The commands ``modelwright runs ...``: list, show, compare, remove, tell other tools."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelwright.cli.base import RUNS, Folder, Json, RunArgument, do, known_runs, out, print_json, show, verb

runs_app = typer.Typer(help="List, show, compare and remove runs.", no_args_is_help=True)


@runs_app.command("list")
@verb
def runs_list(folder: Folder = RUNS, as_json: Json = False) -> None:
    """The runs of a folder, oldest first."""
    rows = do("runs list", folder)
    print_json([row.to_json() for row in rows]) if as_json else show(do("runs listed", rows))


@runs_app.command("show")
@verb
def runs_show(run: RunArgument, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Everything that is known of a run, its lineage too."""
    facts = do("runs show", run, folder)
    print_json(facts) if as_json else show(do("runs shown", facts))


@runs_app.command("compare")
@verb
def runs_compare(
    runs: Annotated[list[str], typer.Argument(help="Names or paths.", autocompletion=known_runs)],
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Where runs differ: recipe, results, environment."""
    facts = do("runs compare", runs, folder)
    print_json(facts) if as_json else do("runs compared", facts, out)


@runs_app.command("remove")
@verb
def runs_remove(
    run: RunArgument,
    folder: Folder = RUNS,
    force: Annotated[bool, typer.Option("--force", help="Also where it is still at work.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a run and all its files; on a terminal it asks first."""
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not (yes or force or as_json)
    if asks and not typer.confirm(do("runs removal", run, folder)):
        out.print("nothing is removed")
        return
    path = do("runs remove", run, folder, force=force)
    print_json({"removed": str(path)}) if as_json else out.print(f"removed {path}", highlight=False)


@runs_app.command("reindex")
@verb
def runs_reindex(folder: Folder = RUNS, as_json: Json = False) -> None:
    """Rebuild the index of runs from their directories."""
    count = do("runs reindex", folder)
    print_json({"runs": count}) if as_json else out.print(f"{count} runs", highlight=False)


@runs_app.command("export")
@verb
def runs_export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help="tensorboard or mlflow.")],
    output: Annotated[str | None, typer.Option("--out", help="A folder, or the address of an MLflow store.")] = None,
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Tell another tool of a run; done again, it replaces what it told before."""
    facts = do("runs export", run, folder, to, output, aside=as_json)
    print_json(facts) if as_json else out.print(do("runs exported", facts), highlight=False, soft_wrap=True)
