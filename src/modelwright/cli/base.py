"""What the commands share: their verbs by name, their arguments, how they print, how errors become exit codes."""

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

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError, Stopped

VERBS = Family(
    "verb",
    {
        "train": "modelwright.app.train:train",
        "resume": "modelwright.app.resume:resume",
        "branch": "modelwright.app.branch:branch",
        "evaluate": "modelwright.app.evaluating:evaluate",
        "evaluated": "modelwright.app.evaluate:evaluated",
        "export": "modelwright.app.export:export",
        "exported": "modelwright.app.export:exported",
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
        "recipe layout": "modelwright.app.layout:layout",
        "recipe laid out": "modelwright.app.layout:laid_out",
        "recipe schema": "modelwright.app.recipes:schema",
        "recipe list": "modelwright.app.recipes:list_recipes",
        "recipe listed": "modelwright.app.recipes:listed",
        "doctor": "modelwright.app.doctor:examine",
        "findings": "modelwright.app.doctor:shown",
        "demo": "modelwright.app.demo:demo",
    },
)

out = Console()
RUNS = Path("runs")


def known_runs(incomplete: str) -> list[str]:
    """Names of runs that begin so, for the shell."""
    folder = Path("runs")
    found = [path.parent.name for path in folder.glob("*/run.json")] if folder.is_dir() else []
    return sorted(name for name in found if name.startswith(incomplete))


def known_recipes(incomplete: str) -> list[str]:
    """Names of recipes that begin so, for the shell."""
    shipped = (Path(__file__).parents[1] / "recipes").glob("*.yaml")
    files = [*(path.stem for path in shipped), *(str(path) for path in Path().glob("*.yaml"))]
    return sorted(name for name in files if name.startswith(incomplete))


RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or a shipped recipe's name.", autocompletion=known_recipes)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, such as optimizer.lr=3e-4 budget.time=10m.")
]
RunArgument = Annotated[str, typer.Argument(help="A run's name or path.", autocompletion=known_runs)]
Folder = Annotated[Path, typer.Option("--folder", "-f", help="Where runs lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the foreign code that a run from elsewhere names.")]


def verb(function: Callable[..., None]) -> Callable[..., None]:
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


def do(name: str, /, *args: Any, aside: bool = False, **kwargs: Any) -> Any:
    """Call a verb; where it is ``aside``, whatever the user's code prints on the way goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if aside else contextlib.nullcontext():
        return VERBS.resolve(name)(*args, **kwargs)


def print_json(value: Any) -> None:
    """Print for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def show(told: Any) -> None:
    """Show a table as wide as it is: no name and no path is cut."""
    out.print(told, soft_wrap=True)


def console(as_json: bool) -> Console:
    """Progress goes to standard error where standard output is for a machine."""
    return Console(stderr=True) if as_json else out


def tell(run: Any, folder: Path, as_json: bool) -> None:
    """What a training did, at its end."""
    if as_json:
        print_json(do("runs show", run.path, folder))
    else:
        show(do("account", run))


def _complain(error: ModelwrightError, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": error.to_json()}) + "\n")
    label = "" if isinstance(error, Stopped) else "[bold red]error[/] "
    Console(stderr=True).print(f"{label}{escape(str(error))}", highlight=False, soft_wrap=True)
