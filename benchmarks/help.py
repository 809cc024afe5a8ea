"""How long ``modelwright --help`` takes beside a bare Typer + Rich application with as many commands.

    python benchmarks/help.py [REPEATS]

Both are started as processes of their own, in turns, after one start each that is not counted. The ratio of the
medians is what counts: the seconds belong to this machine.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modelwright.base.detect import detect

BARE = '''
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="A bare application.", no_args_is_help=True, rich_markup_mode="rich")
first, second = typer.Typer(help="A group."), typer.Typer(help="Another group.")
app.add_typer(first, name="first")
app.add_typer(second, name="second")
out = Console()

def command(name: str, folder: Annotated[Path, typer.Option(help="Where.")] = Path("runs"), json: bool = False) -> None:
    """Do what is asked."""

for group, count in ((app, 7), (first, 5), (second, 3)):
    for number in range(count):
        group.command(f"command{number}")(command)
app()
'''
OURS = "from modelwright.cli import main; main()"
HEAVY = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {OURS}"


def seconds(code: list[str]) -> float:
    """Wall-clock seconds of one start to end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *code, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        rivals = {"modelwright": ["-c", OURS], "bare Typer + Rich": [str(bare)]}
        for code in rivals.values():
            seconds(code)
        rounds = [{name: seconds(code) for name, code in rivals.items()} for _ in range(repeats)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in rivals}
    ratios = [times["modelwright"] / times["bare Typer + Rich"] for times in rounds]
    ours, theirs = medians.values()
    print(f"ratio {ours / theirs:.2f} (of single rounds {min(ratios):.2f} to {max(ratios):.2f}; target: at most 1.5)")
    for name, median in medians.items():
        print(f"{name}: median {median * 1e3:.0f} ms over {repeats} starts")
    heavy = subprocess.run([sys.executable, "-c", HEAVY, "--help"], capture_output=True, text=True, check=True)
    print(f"torch in sys.modules: {heavy.stderr.strip()}")
    machine = detect()
    print(f"machine: {machine.device_name}, {machine.cores} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
