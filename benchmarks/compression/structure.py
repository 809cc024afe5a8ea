"""Structured pruning of many architectures by this library and by Torch-Pruning, judged by one oracle.

Half of the units go by magnitude. What went is read off the weights that are left, each of which has a value of its
own; the original with all of that set to zero, and left out of the statistics of norms, is what the pruned model must
compute. Torch-Pruning runs twice: as it is, its layers that make the output named to it; and told the heads of every
attention layer too, as this library found them. Needs ``pip install torch-pruning transformers``; run from the root of
the repository:

    python -m benchmarks.compression.structure [names]
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch_pruning
from tests.compression.structure.architectures import NAMES, case, forward
from tests.compression.structure.oracle import Uncounted, apart, output
from torch import Tensor, nn

from modelwright.compression import prune
from modelwright.compression.structure import Units

EXACT = 1e-9
_HEADS = ("head", "kv-group", "head-of-group")
Pruned = Callable[[nn.Module, dict[str, Any]], nn.Module]


def ours(model: nn.Module, inputs: dict[str, Any]) -> nn.Module:
    """As a user calls it."""
    return prune(model, inputs, keep=0.5, forward=forward).model


def theirs(model: nn.Module, inputs: dict[str, Any], heads: bool = False) -> nn.Module:
    """As its documentation says."""
    units, changed = Units(model, inputs, forward=forward), copy.deepcopy(model)
    ends = {name for each in units.frozen if each.reason == "the model returns it" for name in each.tensors}
    pruner = torch_pruning.pruner.BasePruner(
        changed,
        inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[module for name, module in changed.named_modules() if f"{name}.weight" in ends],
        num_heads=_heads(units, changed) if heads else {},
        prune_num_heads=heads,
        prune_head_dims=not heads,
        head_pruning_ratio=0.5 if heads else 0.0,
        forward_fn=forward,
    )
    pruner.step()
    return changed


def told(model: nn.Module, inputs: dict[str, Any]) -> nn.Module:
    """With the heads of every attention layer."""
    return theirs(model, inputs, heads=True)


def _heads(units: Units, model: nn.Module) -> dict[nn.Module, int]:
    found: dict[nn.Module, int] = {}
    for each in units.classes:
        for place in each.parameters if each.kind in _HEADS else ():
            module = model.get_submodule(place.tensor.rpartition(".")[0])
            if isinstance(module, nn.Linear) and place.makes and place.tensor.endswith("weight"):
                found[module] = found.get(module, 1) * each.size
    return found


def masked(model: nn.Module, pruned: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The output of the original without what is no longer in ``pruned``."""
    changed, masks = copy.deepcopy(model), dict[int, list[Tensor]]()
    left = dict(pruned.named_parameters())
    for name, parameter in changed.named_parameters():
        for dim, stays in enumerate(_stays(parameter.detach(), left[name].detach())):
            if not stays.all():
                with torch.no_grad():
                    parameter.index_fill_(dim, (~stays).nonzero().flatten(), 0.0)
                masks.setdefault(len(stays), []).append(stays)
    with Uncounted(masks):
        return output(changed, inputs)


def _stays(whole: Tensor, part: Tensor) -> list[Tensor]:
    """By dim which entries of a tensor are in a part of it."""
    found = torch.isin(whole, part)
    return [found.movedim(dim, 0).reshape(size, -1).any(1) for dim, size in enumerate(whole.shape)]


def judge(arm: Pruned, name: str) -> dict[str, Any]:
    """What one tool makes of one architecture."""
    model, inputs = case(name)
    started, stage = time.perf_counter(), "cannot prune"
    try:
        pruned = arm(model, inputs)
        seconds, stage = time.perf_counter() - started, "forward fails"
        counts = [sum(each.numel() for each in some.parameters()) for some in (model, pruned)]
        computed, stage = output(pruned, inputs), "not judged"
        if computed.shape != output(model, inputs).shape:
            return {"verdict": "wrong", "why": f"the output is {list(computed.shape)}"}
        error = apart(computed, masked(model, pruned, inputs))
        verdict = "exact" if error < EXACT else "wrong"
        return {
            "verdict": "nothing removed" if counts[0] == counts[1] else verdict,
            "error": error,
            "parameters": counts,
            "seconds": round(seconds, 2),
        }
    except Exception as failure:  # Whatever a tool raises is its result.
        return {"verdict": stage, "why": f"{type(failure).__name__}: {failure}"[:160]}


def _work(arm: Pruned, name: str, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sender.send(judge(arm, name))


def limited(arm: Pruned, name: str, seconds: float) -> dict[str, Any]:
    """The same in a process of its own, which has so many seconds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(arm, name, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv() if receiver.poll(seconds) else {"verdict": "no end"}
    except EOFError:
        found = {"verdict": "cannot prune", "why": "the process died"}
    process.kill()
    process.join()
    return found


def main() -> None:
    """Print a line of JSON for each architecture and tool, then how many of each verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each architecture and tool")
    given = parser.parse_args()
    verdicts: dict[str, Counter[str]] = {arm.__name__: Counter() for arm in (ours, theirs, told)}
    case("bert")  # imports what all processes need
    for name in given.names:
        for arm in (ours, theirs, told):
            found = limited(arm, name, given.seconds)
            verdicts[arm.__name__][found["verdict"]] += 1
            print(json.dumps({"name": name, "tool": arm.__name__, **found}), flush=True)
    print(json.dumps({tool: dict(counts) for tool, counts in verdicts.items()}, indent=1))


if __name__ == "__main__":
    main()
