"""Kill real runs at random, go on with them, and count what was lost.

    python benchmarks/chaos.py [--trials N] [--seed S] [--job digits text] [--elastic] [--fresh] [--json FILE]

Each trial trains a small model through the command line, in two workers with dropout, accumulation, an average of the
weights and a checkpoint every few steps: an MLP on digits, or a GPT on a mixture of two texts packed into windows
(``documents: separate``). It kills -9 one worker, all of them, or all of them and the command, at an instant drawn
uniformly from the time that an undisturbed run takes; then it resumes until the run is finished. A part of the
strikes (``--inside``) waits, after its instant, for the next save to begin, and hits within its usual time. With
``--elastic`` there are three workers, the run goes on by itself with those that are left and grows again (no dropout).

What was learnt from comes from each worker's own log of the samples it used, and from nothing else: of every step the
last generation that did it counts. Resumed runs must end in the same bits: losses, weights, averages, moments. Elastic
ones change their size, and sums of other sizes round otherwise: losses may differ by 1e-6, and weights by four times as
much as undisturbed runs of two workers and of one differ from three, which are trained first.

Exits with 1 if anything was lost or repeated, or an outcome differs; such runs are kept. Ctrl-C and SIGTERM tell what
there is so far.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from chaos_commands import Forked, Fresh
from chaos_evidence import account, difference
from chaos_jobs import JOBS, job
from chaos_trials import VICTIMS, Chaos, Kill, Trial

__all__ = ["account", "difference"]

AIM = 0.2  # of the kills are to be inside a save
WAITING = 0.25  # of the strikes wait for one, not all of which hit it
Told = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    wishes = _parsed(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="chaos-")).resolve()
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
    trials: list[Trial] = []
    jobs: dict[str, Chaos] = {}
    ended = ""
    try:
        for name in wishes.job:
            jobs[name] = _prepared(name, folder, wishes)
        _try(jobs, trials, wishes)
    except KeyboardInterrupt:
        ended = "interrupted"
    except (RuntimeError, TimeoutError) as error:
        ended = f"ended by a run that did not go on: {error}"
    finally:
        for chaos in jobs.values():
            chaos.close()
    told = report(trials, jobs, wishes)
    print(table(told))
    if ended:
        print(f"\n{ended}, after {len(trials)} of {wishes.trials} trials")
    if all(trial.exact for trial in trials) and ended in ("", "interrupted"):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"\nwhat is not exact or not finished, and the undisturbed runs, are kept in {folder}")
    return verdict(trials) or 130 * bool(ended)


def verdict(trials: Sequence[Trial]) -> int:
    """The exit code: 0 where there are trials and all are exact."""
    return int(not trials or not all(trial.exact for trial in trials))


def report(trials: Sequence[Trial], jobs: Mapping[str, Chaos], wishes: argparse.Namespace) -> Told:
    """Everything, job by job and together."""
    groups = {name: [trial for trial in trials if trial.job == name] for name in jobs}
    if len(jobs) > 1:
        groups["all"] = list(trials)
    told: Told = {
        "kind": "elastic" if wishes.elastic else "resumed",
        "commands": "fresh interpreters" if wishes.fresh else "forked from a warm process",
        "seed": wishes.seed,
        "inside_asked_for": wishes.inside,
        "groups": {name: summary(found) | undisturbed(jobs.get(name)) for name, found in groups.items() if found},
        "calibration": {name: chaos.calibration for name, chaos in jobs.items() if chaos.calibration},
        "trials": [asdict(trial) | {"exact": trial.exact} for trial in trials],
    }
    if wishes.json is not None:
        unfinished = wishes.json.with_name(f"{wishes.json.name}.part")
        unfinished.write_text(json.dumps(told, indent=2) + "\n")
        unfinished.replace(wishes.json)
    return told


def summary(trials: Sequence[Trial]) -> Told:
    kills = [kill for trial in trials for kill in trial.kills]
    verdicts = [trial.verdict for trial in trials]
    waits = {name: [kill.useful_after for kill in kills if kill.strike.victim == name] for name in VICTIMS}
    return {
        "trials": len(trials),
        "exact": sum(trial.exact for trial in trials),
        "same_sequence": sum(found.same_sequence for found in verdicts),
        "byte_equal": sum(found.same_bytes for found in verdicts),
        "samples_lost": sum(found.lost for found in verdicts),
        "samples_repeated": sum(found.repeated for found in verdicts),
        "largest_loss_difference": max(found.loss_difference for found in verdicts),
        "largest_weight_difference": max(found.weight_difference for found in verdicts),
        "kills": len(kills),
        **{f"kills_of_{name.replace(' ', '_')}": len(found) for name, found in waits.items()},
        "strikes_that_hit_nobody": sum(trial.missed for trial in trials),
        "recoveries": sum(trial.recoveries for trial in trials),
        "kills_inside_a_save": sum(kill.inside_save for kill in kills),
        "share_inside_a_save": _share(kills, lambda kill: kill.inside_save),
        "kills_aimed_at_a_save": sum(kill.strike.aimed for kill in kills),
        "aimed_and_inside": sum(kill.strike.aimed and kill.inside_save for kill in kills),
        "useful_seconds_median": _median(kill.useful_after for kill in kills),
        "useful_seconds_worst": max((kill.useful_after for kill in kills), default=None),
        **{f"useful_seconds_median_of_{name.replace(' ', '_')}": _median(found) for name, found in waits.items()},
        "trial_seconds_median": _median(trial.seconds for trial in trials),
    }


def undisturbed(chaos: Chaos | None) -> Told:
    """What there is to say of the undisturbed run, and of the differences that are allowed."""
    if chaos is None:
        return {}
    found = chaos.undisturbed
    return {
        "allowed_loss_difference": chaos.allowed.losses,
        "allowed_weight_difference": chaos.allowed.weights,
        "undisturbed_seconds": found.seconds,
        "undisturbed_share_inside_a_save": sum(found.saves) / found.seconds,
        "save_seconds_median": _median(found.saves),
    }


ROWS: dict[str, tuple[str, str]] = {
    "trials": ("trials", "d"),
    "exact": ("  exact", "d"),
    "same_sequence": ("  same samples in the same order", "d"),
    "byte_equal": ("  weights, averages and moments byte-equal", "d"),
    "samples_lost": ("samples lost", "d"),
    "samples_repeated": ("samples repeated", "d"),
    "largest_loss_difference": ("largest difference of a loss", ".1e"),
    "allowed_loss_difference": ("  allowed", ".1e"),
    "largest_weight_difference": ("largest difference of a weight, over its tensor's rms", ".1e"),
    "allowed_weight_difference": ("  allowed", ".1e"),
    "kills": ("kills", "d"),
    **{f"kills_of_{name.replace(' ', '_')}": (f"  of {name}", "d") for name in VICTIMS},
    "kills_inside_a_save": ("  inside a save", "d"),
    "share_inside_a_save": ("    share of all", ".0%"),
    "kills_aimed_at_a_save": ("    aimed at one (waited for it to begin)", "d"),
    "aimed_and_inside": ("    aimed and inside", "d"),
    "strikes_that_hit_nobody": ("strikes too late or without a victim, drawn again", "d"),
    "recoveries": ("worlds formed again", "d"),
    "useful_seconds_median": ("to the next useful step, median", ".2f s"),
    "useful_seconds_worst": ("  worst", ".2f s"),
    **{f"useful_seconds_median_of_{name.replace(' ', '_')}": (f"  median, {name}", ".2f s") for name in VICTIMS},
    "trial_seconds_median": ("one trial, median", ".1f s"),
    "undisturbed_seconds": ("undisturbed run, from its workers' start", ".2f s"),
    "save_seconds_median": ("  one save, median", ".3f s"),
    "undisturbed_share_inside_a_save": ("  its time inside a save", ".0%"),
}


def table(told: Told) -> str:
    """The groups side by side."""
    groups = told["groups"]
    lines = [f"{told['kind']} runs; commands: {told['commands']}; seed {told['seed']}", ""]
    lines.append(_line("", list(groups)))
    for name, (label, form) in ROWS.items():
        values = [_shown(group.get(name), form) for group in groups.values()]
        if any(values):
            lines.append(_line(label, values))
    for name, found in told["calibration"].items():
        for size, apart in found.items():
            said = f"losses {apart['losses']:.1e}, weights {apart['weights']:.1e}"
            lines.append(f"undisturbed, {name}: {size} differ from 3 by: {said}")
    reached = _overall(groups).get("share_inside_a_save")
    if reached is not None:
        lines += ["", f"inside a save: {reached:.0%} of the kills (aim: at least {AIM:.0%})"]
    return "\n".join(lines)


def _overall(groups: Mapping[str, Told]) -> Told:
    return list(groups.values())[-1] if groups else {}


def _line(label: str, values: Sequence[str]) -> str:
    return f"{label:<55}" + "".join(f"{value:>12}" for value in values)


def _shown(value: float | None, form: str) -> str:
    if value is None:
        return ""
    kind, _, unit = form.partition(" ")
    return f"{value:{kind}}" + (f" {unit}" if unit else "")


def _share(kills: Sequence[Kill], wanted: Callable[[Kill], bool]) -> float | None:
    return sum(map(wanted, kills)) / len(kills) if kills else None


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _prepared(name: str, folder: Path, wishes: argparse.Namespace) -> Chaos:
    begin = time.monotonic()
    _progress(f"{name}: an undisturbed run first" + (", at 3, 2 and 1 workers" if wishes.elastic else ""))
    chaos = Chaos(
        name,
        folder / name,
        job(name, folder, elastic=wishes.elastic),
        seed=wishes.seed,
        begin=Fresh if wishes.fresh else Forked,
        inside=wishes.inside,
        most_kills=wishes.kills,
    )
    _progress(f"{name}: undisturbed {chaos.undisturbed.seconds:.1f} s; prepared in {time.monotonic() - begin:.1f} s")
    return chaos


def _try(jobs: Mapping[str, Chaos], trials: list[Trial], wishes: argparse.Namespace) -> None:
    begin = time.monotonic()
    for number in range(wishes.trials):
        name = wishes.job[number % len(wishes.job)]
        trial = jobs[name].trial(number)
        trials.append(trial)
        if trial.exact:
            shutil.rmtree(trial.path)
        so_far = time.monotonic() - begin
        left = so_far / len(trials) * (wishes.trials - len(trials))
        what = "exact" if trial.exact else f"NOT EXACT ({trial.path})"
        inside = sum(kill.inside_save for kill in trial.kills)
        _progress(
            f"trial {number + 1}/{wishes.trials} {name}: {what}; {len(trial.kills)} kills, {inside} inside a save; "
            f"{trial.seconds:.1f} s; {so_far:.0f} s so far, about {left:.0f} s left"
        )
        report(trials, jobs, wishes)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", nargs="+", choices=JOBS, default=list(JOBS), help="in turns; both without it")
    parser.add_argument("--elastic", action="store_true", help="let runs go on with the workers that are left")
    parser.add_argument("--kills", type=int, default=2, help="of one run, at most; some come too late")
    parser.add_argument(
        "--inside", type=float, default=WAITING, help="part of the strikes that wait for a save to begin"
    )
    parser.add_argument("--fresh", action="store_true", help="start each command in an interpreter of its own")
    parser.add_argument("--json", type=Path, help="also write everything here, after each trial")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
