"""The command ``modelwright``: argv -> app. No logic lives here, and nothing heavy is imported before a verb runs.

Exit codes: 0 done; 1 a fault of ours (with a traceback); 2 the user's mistake, found before anything was spent;
3 a run failed; 130 and 143 stopped by Ctrl-C or SIGTERM, with everything saved if training had
begun.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from modelwright import __version__
from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError, Stopped

VERBS = Family(
    "verb",
    {
        "train": "modelwright.app.train:train",
        "resume": "modelwright.app.resume:resume",
        "evaluate": "modelwright.app.evaluate:evaluate",
        "evaluated": "modelwright.app.evaluate:evaluated",
        "generate": "modelwright.app.generate:generate",
        "generate file": "modelwright.app.generate:generate_file",
        "predict": "modelwright.app.predict:predict_file",
        "account": "modelwright.app.account:told",
        "runs list": "modelwright.app.runs:list_runs",
        "runs listed": "modelwright.app.runs:listed",
        "runs show": "modelwright.app.runs:show",
        "runs shown": "modelwright.app.runs:shown",
        "runs compare": "modelwright.app.runs:compared",
        "runs compared": "modelwright.app.runs:print_compared",
        "runs removal": "modelwright.app.runs:removal",
        "runs remove": "modelwright.app.runs:remove_run",
        "runs reindex": "modelwright.app.runs:rebuild",
        "runs export": "modelwright.app.runs:export",
        "runs exported": "modelwright.app.runs:exported",
        "report": "modelwright.app.runs:report",
        "recipe show": "modelwright.app.recipes:show",
        "recipe shown": "modelwright.app.recipes:shown",
        "recipe schema": "modelwright.app.recipes:schema",
        "recipe list": "modelwright.app.recipes:list_recipes",
        "recipe listed": "modelwright.app.recipes:listed",
        "doctor": "modelwright.app.doctor:examine",
        "findings": "modelwright.app.doctor:shown",
        "demo": "modelwright.app.demo:demo",
    },
)

app = typer.Typer(
    help="Plan, train, tune, compress and ship large models from one recipe, with numbers that hold.",
    epilog="Exit codes: 0 done, 1 our fault, 2 your mistake, 3 the run failed, "
    "130/143 stopped; saved if training had begun.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
runs_app = typer.Typer(help="List, show, compare and remove runs.", no_args_is_help=True)
recipe_app = typer.Typer(help="Show what a recipe means; print its schema for editors.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
app.add_typer(recipe_app, name="recipe")

out = Console()


def _known_runs(incomplete: str) -> list[str]:
    folder = Path("runs")
    found = [path.parent.name for path in folder.glob("*/run.json")] if folder.is_dir() else []
    return sorted(name for name in found if name.startswith(incomplete))


def _known_recipes(incomplete: str) -> list[str]:
    shipped = (Path(__file__).parent / "recipes").glob("*.yaml")
    files = [*(path.stem for path in shipped), *(str(path) for path in Path().glob("*.yaml"))]
    return sorted(name for name in files if name.startswith(incomplete))


RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or a shipped recipe's name.", autocompletion=_known_recipes)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, such as optimizer.lr=3e-4 budget.time=10m.")
]
RunArgument = Annotated[str, typer.Argument(help="A run's name or path.", autocompletion=_known_runs)]
Folder = Annotated[Path, typer.Option("--folder", "-f", help="Where runs lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the foreign code that a run from elsewhere names.")]
RUNS = Path("runs")


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into words and exit codes."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except ModelwrightError as error:
            _complain(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(error.exit_code) from error
        except (KeyboardInterrupt, typer.Abort) as error:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            sys.stderr.close()
            raise typer.Exit(0) from error

    return run


def _complain(error: ModelwrightError, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": error.to_json()}) + "\n")
    label = "" if isinstance(error, Stopped) else "[bold red]error[/] "
    Console(stderr=True).print(f"{label}{escape(str(error))}", highlight=False, soft_wrap=True)


def _do(verb: str, /, *args: Any, aside: bool = False, **kwargs: Any) -> Any:
    """Call a verb; where it is ``aside``, whatever the user's code prints on the way goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if aside else contextlib.nullcontext():
        return VERBS.resolve(verb)(*args, **kwargs)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _print(told: Any) -> None:
    """Show a table as wide as it is: no name and no path is cut."""
    out.print(told, soft_wrap=True)


def _console(as_json: bool) -> Console:
    """Progress goes to standard error where standard output is for a machine."""
    return Console(stderr=True) if as_json else out


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"modelwright {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb."""
    # Modules that recipes name lie where the command is started, as with python -m.
    if "" not in sys.path:
        sys.path.insert(0, "")


@app.command()
@_verb
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Train what a recipe describes: check, plan, train, evaluate, save, report."""
    console = _console(as_json)
    run = _do("train", recipe, overrides or [], folder=folder, console=console, name=name, aside=as_json)
    _tell(run, folder, as_json)


@app.command()
@_verb
def resume(run: RunArgument, folder: Folder = RUNS, trust: Trust = False, as_json: Json = False) -> None:
    """Go on with a run that was stopped, interrupted or failed."""
    resumed = _do("resume", run, folder=folder, console=_console(as_json), trust=trust, aside=as_json)
    _tell(resumed, folder, as_json)


@app.command()
@_verb
def evaluate(run: RunArgument, folder: Folder = RUNS, trust: Trust = False, as_json: Json = False) -> None:
    """Score a run's weights on the whole of its held-out data."""
    record, scores = _do("evaluate", run, folder=folder, trust=trust, aside=as_json)
    if as_json:
        _print_json({"run": str(record.path), **scores})
    else:
        _print(_do("evaluated", record, scores))


@app.command()
@_verb
def generate(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What to continue.", metavar="[PROMPT]")] = "",
    prompt: Annotated[str, typer.Option(help="What to continue: the same, as an option.")] = "",
    file: Annotated[Path | None, typer.Option(help="Prompts: lines of .txt, or rows with a 'prompt'.")] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help=".jsonl, .parquet, .csv or .txt; of --file.")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Go on behind the rows that --out holds (.jsonl).")] = False,
    batch: Annotated[int, typer.Option(help="Prompts of --file at once.", min=1)] = 16,
    length: Annotated[int, typer.Option(help="How many tokens at most.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among so many; 0 for all.", min=0)] = 50,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest with this share.", min=0.0, max=1.0)] = 1.0,
    min_p: Annotated[float, typer.Option(help="Least share of the likeliest's probability.", min=0.0, max=1.0)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes repeating rarer.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text at which to stop; may be given again.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Continue a text with a trained language model, or each prompt of a file."""
    _check_one("prompt", [text, prompt, file])
    sampling: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k or None, "seed": seed}
    sampling |= {"top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
    options: dict[str, Any] = {"stop": stop or [], "folder": folder, "trust": trust}
    if file is not None:
        options |= {"batch": batch, "append": append, "console": Console(stderr=True)}
        return _tell_rows(_do("generate file", run, file, output, sampling=sampling, **options), as_json)
    if output is not None:
        raise ModelwrightError("there is no file of prompts for --out", where="--out", remedy="name one with --file")
    pieces = _do("generate", run, text or prompt, **sampling, **options)
    if as_json:
        return _print_json({"prompt": text or prompt, "text": "".join(pieces)})
    sys.stdout.write(text or prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
@_verb
def predict(
    run: RunArgument,
    file: Annotated[Path | None, typer.Option(help="Samples; the held-out ones where there is no file.")] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help=".jsonl, .csv or .parquet.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Go on behind the rows that --out holds (.jsonl).")] = False,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Say for each sample what a trained model makes of it: class, value, or loss."""
    options: dict[str, Any] = {"folder": folder, "append": append, "trust": trust}
    _tell_rows(_do("predict", run, file, output, console=Console(stderr=True), **options), as_json)


@app.command()
@_verb
def report(run: RunArgument, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Write a run's report.html anew."""
    path = _do("report", run, folder)
    _print_json({"report": str(path)}) if as_json else out.print(str(path), soft_wrap=True)


@app.command()
@_verb
def doctor(folder: Folder = RUNS, as_json: Json = False) -> None:
    """Check this machine: devices, optional parts, folders, workers."""
    findings = _do("doctor", folder)
    if as_json:
        _print_json([vars(finding) for finding in findings])
    else:
        out.print(_do("findings", findings))
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(2)


@app.command()
@_verb
def demo(overrides: Overrides = None, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Train a language model of Python's own library here and now, in about two minutes."""
    run = _do("demo", folder=folder, console=_console(as_json), overrides=overrides or [], aside=as_json)
    if as_json:
        _print_json(_do("runs show", run.path, folder))


@runs_app.command("list")
@_verb
def runs_list(folder: Folder = RUNS, as_json: Json = False) -> None:
    """The runs of a folder, oldest first."""
    rows = _do("runs list", folder)
    _print_json([row.to_json() for row in rows]) if as_json else _print(_do("runs listed", rows))


@runs_app.command("show")
@_verb
def runs_show(run: RunArgument, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Everything that is known of a run."""
    facts = _do("runs show", run, folder)
    _print_json(facts) if as_json else _print(_do("runs shown", facts))


@runs_app.command("compare")
@_verb
def runs_compare(
    runs: Annotated[list[str], typer.Argument(help="Names or paths.", autocompletion=_known_runs)],
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Where runs differ: recipe, results, environment."""
    facts = _do("runs compare", runs, folder)
    _print_json(facts) if as_json else _do("runs compared", facts, out)


@runs_app.command("remove")
@_verb
def runs_remove(
    run: RunArgument,
    folder: Folder = RUNS,
    force: Annotated[bool, typer.Option("--force", help="Also where it is still at work.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a run and all its files; on a terminal it asks first."""
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not (yes or force or as_json)
    if asks and not typer.confirm(_do("runs removal", run, folder)):
        out.print("nothing is removed")
        return
    path = _do("runs remove", run, folder, force=force)
    _print_json({"removed": str(path)}) if as_json else out.print(f"removed {path}", highlight=False)


@runs_app.command("reindex")
@_verb
def runs_reindex(folder: Folder = RUNS, as_json: Json = False) -> None:
    """Rebuild the index of runs from their directories."""
    count = _do("runs reindex", folder)
    _print_json({"runs": count}) if as_json else out.print(f"{count} runs", highlight=False)


@runs_app.command("export")
@_verb
def runs_export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help="tensorboard or mlflow.")],
    output: Annotated[str | None, typer.Option("--out", help="A folder, or the address of an MLflow store.")] = None,
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Tell another tool of a run; done again, it replaces what it told before."""
    facts = _do("runs export", run, folder, to, output, aside=as_json)
    _print_json(facts) if as_json else out.print(_do("runs exported", facts), highlight=False, soft_wrap=True)


@recipe_app.command("show")
@_verb
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """The resolved recipe, each value with its origin."""
    rows = _do("recipe show", recipe, overrides or [])
    _print_json(rows) if as_json else out.print(_do("recipe shown", rows))


@recipe_app.command("schema")
@_verb
def recipe_schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file.")] = None,
    as_json: Json = False,
) -> None:
    """The JSON Schema of recipes, always as JSON; with --output the line that makes editors use it."""
    text = _do("recipe schema", output)
    if as_json and output is not None:
        return _print_json({"schema": str(output), "line": text})
    sys.stdout.write(text + "\n")


@recipe_app.command("list")
@_verb
def recipe_list(as_json: Json = False) -> None:
    """The recipes that come with modelwright, and what each is."""
    rows = _do("recipe list")
    _print_json(rows) if as_json else _print(_do("recipe listed", rows))


def _check_one(what: str, given: list[Any]) -> None:
    if sum(bool(value) for value in given) > 1:
        raise ModelwrightError(f"the {what} is given more than once", where=what, remedy="give one of them")


def _tell_rows(told: Any, as_json: bool) -> None:
    """How many rows were written to a file; where they went to standard output, nothing may follow them."""
    if told["out"] is not None:
        line = f"{told['rows']} rows in {told['out']}"
        _print_json(told) if as_json else out.print(line, highlight=False, soft_wrap=True)


def _tell(run: Any, folder: Path, as_json: bool) -> None:
    if as_json:
        _print_json(_do("runs show", run.path, folder))
    else:
        _print(_do("account", run))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
