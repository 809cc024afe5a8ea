"""The command ``modelwright``: argv -> app. No logic lives here, and nothing heavy is imported before a verb runs.

Exit codes: 0 done; 1 a fault of ours (with a traceback); 2 the user's mistake, found before anything was spent;
3 a run failed; 130 and 143 stopped by Ctrl-C or SIGTERM, with everything saved if training had
begun.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from modelwright import __version__
from modelwright.base.errors import ModelwrightError
from modelwright.cli.base import (
    RUNS,
    Folder,
    Json,
    Overrides,
    RecipeArgument,
    RunArgument,
    Trust,
    console,
    do,
    known_runs,
    out,
    print_json,
    show,
    tell,
    verb,
)
from modelwright.cli.data import data_app
from modelwright.cli.recipe import recipe_app
from modelwright.cli.runs import runs_app

app = typer.Typer(
    help="Plan, train, tune, compress and ship large models from one recipe, with numbers that hold.",
    epilog="Exit codes: 0 done, 1 our fault, 2 your mistake, 3 the run failed, "
    "130/143 stopped; saved if training had begun.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(runs_app, name="runs")
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")


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
@verb
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    folder: Folder = RUNS,
    as_json: Json = False,
) -> None:
    """Train what a recipe describes: check, plan, train, evaluate, save, report."""
    options: dict[str, Any] = {"folder": folder, "console": console(as_json), "name": name}
    run = do("train", recipe, overrides or [], **options, aside=as_json)
    tell(run, folder, as_json)


@app.command()
@verb
def resume(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted overrides that leave what is learnt alone: plan.threads=2 budget.steps=2000."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that train together; the same as plan.workers=N.", min=1)
    ] = None,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped, interrupted or failed; a larger budget extends a finished one."""
    wishes = [*(overrides or []), *([] if workers is None else [f"plan.workers={workers}"])]
    options: dict[str, Any] = {"folder": folder, "console": console(as_json), "trust": trust}
    tell(do("resume", run, wishes, **options, aside=as_json), folder, as_json)


@app.command()
@verb
def branch(
    run: RunArgument,
    overrides: Overrides = None,
    step: Annotated[int | None, typer.Option(help="Of a kept checkpoint; the newest one without it.", min=0)] = None,
    name: Annotated[str | None, typer.Option(help="The new run's name.")] = None,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Train on in a new run, from a kept checkpoint of another: with other rates, data, batch or budget."""
    options: dict[str, Any] = {"step": step, "name": name, "folder": folder, "trust": trust}
    made = do("branch", run, overrides or [], console=console(as_json), **options, aside=as_json)
    tell(made, folder, as_json)


@app.command()
@verb
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="A run, or a file exported from one: .onnx, .pt2, .pte, .safetensors.", autocompletion=known_runs
        ),
    ],
    of: Annotated[str | None, typer.Option("--run", help="The run that a FILE was exported from.")] = None,
    data: Annotated[str | None, typer.Option(help="A recipe whose held-out data to score a FILE on.")] = None,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Score a run's weights on the whole of its held-out data; or a file exported from it, in the file's runtime."""
    options: dict[str, Any] = {"of": of, "data": data, "folder": folder, "trust": trust}
    record, scores = do("evaluate", run, console=Console(stderr=True), **options, aside=as_json)
    if as_json:
        print_json({"run": str(record.path), **scores})
    else:
        show(do("evaluated", record, scores))


@app.command()
@verb
def export(
    run: RunArgument,
    checkpoint: Annotated[
        str, typer.Option(help="newest, best, or the step of a kept one: 500 or step-500.")
    ] = "newest",
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="safetensors, onnx, torch-export, executorch, or a folder for transformers; as --out ends."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="onnx:cpu or torch-export:cpu: also measure which runtime and precision is fastest here."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; below the run without it.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The weights in training, not their averages.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    folder: Folder = RUNS,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a kept checkpoint to a file for others: its weights, or a program judged on the held-out data."""
    options: dict[str, Any] = {"checkpoint": checkpoint, "form": form, "target": target, "out": output, "raw": raw}
    options |= {"force": force, "console": Console(stderr=True)}
    facts = do("export", run, folder=folder, trust=trust, **options, aside=as_json)
    print_json(facts) if as_json else show(do("exported", facts))


@app.command()
@verb
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
        return _tell_rows(do("generate file", run, file, output, sampling=sampling, **options), as_json)
    if output is not None:
        raise ModelwrightError("there is no file of prompts for --out", where="--out", remedy="name one with --file")
    pieces = do("generate", run, text or prompt, **sampling, **options)
    if as_json:
        return print_json({"prompt": text or prompt, "text": "".join(pieces)})
    sys.stdout.write(text or prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
@verb
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
    _tell_rows(do("predict", run, file, output, console=Console(stderr=True), **options), as_json)


@app.command()
@verb
def report(run: RunArgument, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Write a run's report.html anew."""
    path = do("report", run, folder)
    print_json({"report": str(path)}) if as_json else out.print(str(path), soft_wrap=True)


@app.command()
@verb
def doctor(folder: Folder = RUNS, as_json: Json = False) -> None:
    """Check this machine: devices, optional parts, folders, workers."""
    findings = do("doctor", folder)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        out.print(do("findings", findings))
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(2)


@app.command()
@verb
def demo(overrides: Overrides = None, folder: Folder = RUNS, as_json: Json = False) -> None:
    """Train a language model of Python's own library here and now, in about two minutes."""
    run = do("demo", folder=folder, console=console(as_json), overrides=overrides or [], aside=as_json)
    if as_json:
        print_json(do("runs show", run.path, folder))


def _check_one(what: str, given: list[Any]) -> None:
    if sum(bool(value) for value in given) > 1:
        raise ModelwrightError(f"the {what} is given more than once", where=what, remedy="give one of them")


def _tell_rows(told: Any, as_json: bool) -> None:
    """How many rows were written to a file; where they went to standard output, nothing may follow them."""
    if told["out"] is not None:
        line = f"{told['rows']} rows in {told['out']}"
        print_json(told) if as_json else out.print(line, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
