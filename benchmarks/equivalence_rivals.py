"""One job in every layout that Accelerate, Lightning and the Trainer of transformers claim, against one process.

    pip install -e '.[dev]' accelerate lightning transformers
    python benchmarks/equivalence_rivals.py [--only ARM ...] [--rows TEXT] [--conditions NAME ...] [--json FILE]
                                           [--page FILE]

The job (``equivalence_rivals_arms/job.py``) is a small Llama on fixed sequences. Each arm trains it on gloo, by what
its library documents (links stand at the head of its file), under conditions: micro-batches that are accumulated,
unequal numbers of valid targets in samples and so in ranks and micro-batches, tied weights, clipping, bf16 autocast.
Losses and gradient norms of each step, as the library reports them, and the last weights, gathered, are compared with
those of a plain loop of torch in one process on the same global batches.

Differences are relative; that of the weights is the norm of the difference over the norm of what training changed.
A cell agrees up to 1e-6 in losses and norms and 1e-5 in weights; under bf16 up to 0.02 and 0.1, as numbers are rounded
otherwise when batches are cut otherwise. Negative controls, hand-written loops with a mistake, have to differ.

Ranks are forked from one process that has imported the library. Where the first condition does not run, the others of
its row are left out.
"""

from __future__ import annotations

import argparse
import importlib
import math
import multiprocessing
import os
import platform
import re
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ARMS = Path(__file__).parent / "equivalence_rivals_arms"
sys.path[0] = str(ARMS)  # and not this folder, so that no package imports a benchmark by its name
import job  # noqa: E402
from found import Book, Found, Row, fill, section, told, verdict  # noqa: E402

PATIENCE, PARTING = 60.0, 3.0  # Seconds: of one training, and until ranks that failed together have all said so.
TWO, FOUR = {"replicate": 2}, {"replicate": 4}
SHARD, HYBRID, TENSOR = {"shard": 2}, {"replicate": 2, "shard": 2}, {"tensor": 2}
PIPELINE, CONTEXT, SHARD_TENSOR = {"pipeline": 2}, {"context": 2}, {"shard": 2, "tensor": 2}


def rows(settings: Sequence[str], *layouts: dict[str, int]) -> list[Row]:
    return [(setting, layout) for setting in settings for layout in layouts]


PLANS: dict[str, list[Row]] = {
    "torch": rows(["sums over the global count"], TWO, FOUR)
    + rows(["control: reduction dropped", "control: mean of means"], TWO),
    "accelerate": rows(["mean", "num_items_in_batch"], TWO, FOUR)
    + rows(["mean, FSDP1", "mean, FSDP2"], SHARD)
    + rows(["mean, FSDP2"], HYBRID)
    + rows(["mean"], TENSOR)
    + rows(["mean, FSDP2"], CONTEXT, SHARD_TENSOR)
    + rows(["mean, FSDP1, lifted", "num_items_in_batch, FSDP1, lifted"], SHARD)
    + rows(["mean, FSDP2, lifted", "num_items_in_batch, FSDP2, lifted"], SHARD, HYBRID)
    + rows(["mean, lifted", "num_items_in_batch, lifted"], TENSOR)
    + rows(["mean, FSDP2, lifted"], CONTEXT, SHARD_TENSOR),
    "lightning": rows(["mean", "manual"], TWO, FOUR)
    + rows(["mean, FSDPStrategy", "mean, FSDPStrategy, lifted"], SHARD)
    + rows(["mean, ModelParallelStrategy", "manual, ModelParallelStrategy"], SHARD, TENSOR, SHARD_TENSOR),
    "transformers": rows(["default", "average_tokens_across_devices=False", "compute_loss"], TWO, FOUR)
    + rows(["default, native", "compute_loss, native"], SHARD, HYBRID)
    + rows(["default, native"], TENSOR, SHARD_TENSOR, PIPELINE)
    + rows(["default, native, lifted"], TENSOR, SHARD_TENSOR)
    + rows(["default, FSDP1", "default, FSDP2"], SHARD)
    + rows(["default, FSDP2"], HYBRID, CONTEXT)
    + rows(["default, FSDP1, lifted", "default, FSDP2, lifted"], SHARD)
    + rows(["default, FSDP2, lifted"], HYBRID, CONTEXT),
    "modelwright": rows([""], TWO, FOUR, SHARD, HYBRID, TENSOR, CONTEXT, PIPELINE, {"expert": 2})
    + rows(["shard.stage=1"], SHARD)
    + rows(["tensor.sequence=false"], TENSOR)
    + rows(["context.balanced=true", "context.attention=all-gather"], CONTEXT)
    + rows(["pipeline.schedule=gpipe"], PIPELINE)
    + rows([""], SHARD_TENSOR, {"context": 2, "tensor": 2}, {"pipeline": 2, "tensor": 2})
    + rows([""], {"pipeline": 2, "shard": 2}, {"shard": 2, "context": 2}, {"pipeline": 2, "replicate": 2})
    + rows([""], {"replicate": 2, "expert": 2}, {"pipeline": 2, "shard": 2, "tensor": 2}),
}
NEEDS = {"accelerate": ("accelerate",), "lightning": ("lightning",), "transformers": ("accelerate",)}
PACKAGES = ("torch", "accelerate", "lightning", "transformers")
IMPORTED_LATE = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor")  # by each rank, else
TIED = (("lm_head.weight", "model.embed_tokens.weight"), ("head.weight", "embedding.weight"))
TWINS = dict(TIED) | {second: first for first, second in TIED}
FEWER = ("plain", "all of these")  # for products and settings of ours, to save time
QUICK = ("plain", "accumulation, unequal")


# --- one cell


def cell_found(arm: str, cell: job.Cell, expected: job.Outcome, start: Mapping[str, torch.Tensor]) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        error = run_ranks(arm, cell, Path(folder))
        if error is not None:
            return Found(error=error.replace(folder, "FOLDER"))
        outcome = job.Outcome(**torch.load(Path(folder) / "0.pt", weights_only=True))
    return Found(
        losses=apart(outcome.losses, expected.losses),
        norms=apart(outcome.norms, expected.norms),
        weights=weights_apart(outcome.weights, expected.weights, start),
        held=outcome.held,
        first={"losses": outcome.losses, "norms": outcome.norms},
    )


def apart(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference; infinite, where another number of them is reported."""
    if len(found) != len(expected):
        return math.inf
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))


def weights_apart(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]
) -> float:
    """Over what training changed. A tied tensor may be named once or twice, and every name counts."""
    same = {name: found.get(name, found.get(TWINS.get(name, ""))) for name in expected}
    if any(value is None or value.shape != expected[name].shape for name, value in same.items()):
        return math.inf
    difference = sum((same[name].double() - value.double()).square().sum() for name, value in expected.items())
    changed = sum((value.double() - start[name].double()).square().sum() for name, value in expected.items())
    return float((difference / changed).sqrt())


def run_ranks(arm: str, cell: job.Cell, folder: Path) -> str | None:
    """Fork the ranks; the first line of what went wrong."""
    fork, port = multiprocessing.get_context("fork"), free_port()
    ranks = [
        fork.Process(target=run_rank, args=(arm, cell, rank, port, folder), daemon=True) for rank in range(cell.world)
    ]
    for rank in ranks:
        rank.start()
    end = time.monotonic() + PATIENCE
    while any(rank.exitcode is None for rank in ranks) and time.monotonic() < end:
        if any(rank.exitcode for rank in ranks):
            end = min(end, time.monotonic() + PARTING)
        time.sleep(0.02)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.join()
    return None if codes == [0] * cell.world else first_error(folder, codes)


def first_error(folder: Path, codes: Sequence[int | None]) -> str:
    """The cause, and not what its end did to the other ranks."""
    aborted = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    if aborted:
        lines = (folder / f"{aborted[0]}.said").read_text(errors="replace").strip().splitlines() or [""]
        telling = [line for line in lines if "what()" in line] or lines[-1:]
        return f"rank {aborted[0]} was ended by signal {-(codes[aborted[0]] or 0)}: {telling[0].strip()}"[:300]
    said = [path.read_text() for path in sorted(folder.glob("*.error"))]
    said.sort(key=lambda words: re.search("gloo|connection|recv", words, re.IGNORECASE) is not None)
    return said[0] if said else f"nothing for {PATIENCE:.0f} seconds"


def run_rank(arm: str, cell: job.Cell, rank: int, port: int, folder: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": cell.world, "LOCAL_WORLD_SIZE": cell.world}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "EQUIVALENCE_FOLDER": str(folder)}
    said = (folder / f"{rank}.said").open("wb")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    status = 1
    try:
        outcome = importlib.import_module(f"on_{arm}").train(cell)
        if rank == 0:
            torch.save(vars(outcome), folder / "0.pt")
        status = 0
        await_others(folder, rank, cell.world)
    except BaseException as error:
        traceback.print_exc()
        line = next(iter(str(error).strip().splitlines()), "")
        (folder / f"{rank}.error").write_text(f"{type(error).__name__}: {line}"[:300])
        if "EQUIVALENCE_TRACES" in os.environ:
            Path(os.environ["EQUIVALENCE_TRACES"], f"{time.time()}-{rank}").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def await_others(folder: Path, rank: int, world: int) -> None:
    """A gloo rank that leaves takes with it what others have not read yet."""
    (folder / f"{rank}.done").touch()
    end = time.monotonic() + PARTING
    while len(list(folder.glob("*.done"))) < world and time.monotonic() < end:
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the table


def arm_rows(
    arm: str, wished: str, names: Sequence[str], expected: Mapping[job.Condition, Any], book: Book
) -> Iterator[tuple[Row, dict[str, Found]]]:
    for name in (f"on_{arm}", *IMPORTED_LATE):
        importlib.import_module(name)
    for setting, layout in PLANS[arm]:
        if wished not in f"{told(layout)} {setting}":
            continue
        found: dict[str, Found] = {}
        fewer = arm == "modelwright" and (setting or len(layout) > 1)
        for name in [name for name in names if name in FEWER] if fewer else names:
            condition = job.CONDITIONS[name]
            varied = replace(condition, single="FSDP1" in setting, experts="expert" in layout)
            cell = job.Cell(layout, setting, varied)
            key = f"{arm} {told(layout)} {setting} / {name}"
            if key not in book.found and book.closed:
                continue
            if key not in book.found:
                book.add(key, cell_found(arm, cell, *expected[replace(condition, experts=varied.experts)]))
                print(f"{key}: {verdict(book.found[key], condition)}", file=sys.stderr)
            found[name] = book.found[key]
            if name == "plain" and found[name].error:
                break
        if found:
            yield (setting, layout), found


def controls_hold(found: Sequence[tuple[Row, dict[str, Found]]]) -> bool:
    """The right loop agrees everywhere; a dropped reduction differs everywhere, a mean of means where counts do."""
    for (setting, _), cells in found:
        for name, cell in cells.items():
            condition = job.CONDITIONS[name]
            wrong = "dropped" in setting or ("mean of means" in setting and condition.unequal)
            if cell.agrees(condition) == wrong:
                return False
    return True


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> str:
    name = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{package} {installed(package)}" for package in PACKAGES)
    where = f"{name.group(1) if name else platform.processor()}, {os.cpu_count()} cores, gloo"
    return f"{date.today()}, {where}, Python {platform.python_version()}, {versions}."


def references() -> dict[job.Condition, Any]:
    """In a process of their own, so that the ranks are forked from one in which nothing was computed."""
    conditions = [replace(value, experts=experts) for value in job.CONDITIONS.values() for experts in (False, True)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return dict(zip(conditions, pool.map(reference, conditions), strict=True))


def reference(condition: job.Condition) -> tuple[job.Outcome, dict[str, torch.Tensor]]:
    for single in () if condition.experts else (False, True):
        job.saved(replace(condition, single=single))
    return job.reference(condition), job.model(condition).state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PLANS), default=list(PLANS), metavar="ARM")
    parser.add_argument("--quick", action="store_true", help="two conditions of seven")
    parser.add_argument("--conditions", nargs="+", choices=list(job.CONDITIONS), metavar="CONDITION")
    parser.add_argument("--rows", default="", help="only those whose layout and setting hold this text")
    parser.add_argument("--json", type=Path, help="also keep every number here, and go on with what it lacks")
    parser.add_argument("--kept", action="store_true", help="run nothing; only show what the file has")
    parser.add_argument("--page", type=Path, help="put the tables between their marks in this file")
    wishes = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    torch.multiprocessing.set_sharing_strategy("file_system")
    names, book = wishes.conditions or (QUICK if wishes.quick else list(job.CONDITIONS)), Book(wishes.json, wishes.kept)
    sections, held = {"machine": machine()}, True
    print(sections["machine"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EQUIVALENCE_MODELS"] = folder
        expected = references()
        for arm in wishes.only:
            if absent := [name for name in NEEDS.get(arm, ()) if installed(name) is None]:
                print(f"\n{arm}: left out, as {' and '.join(absent)} cannot be found")
                continue
            found = list(arm_rows(arm, wishes.rows, names, expected, book))
            sections[arm] = section(found, names)
            print(f"\n## {arm}\n\n{sections[arm]}", flush=True)
            held = held and (arm != "torch" or controls_hold(found))
    if wishes.page is not None:
        fill(wishes.page, sections)
    sys.exit(None if held else "the negative controls are not told apart")


if __name__ == "__main__":
    main()
