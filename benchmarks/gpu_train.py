"""Tokens per second and utilisation of a language model of 1.34 billion parameters: ours, a plain loop, the Trainer.

    PYTHONPATH=src python benchmarks/gpu_train.py --out gpu_train.json

and, to try all of it on a CPU:

    python benchmarks/gpu_train.py --device cpu --layers 2 --width 64 --heads 2 --hidden 192 --vocabulary 512 \\
        --context 64 --batch 4 --micro-batch 2 --steps 4 --warm-up 2 --rounds 1 --out gpu_train.json

The model is ours in every arm, `gpt` with 24 layers, width 2048, 16 heads, a feed-forward of 5632 (swiglu), tied
embeddings of 50,304 tokens, context 2048; the tokens are drawn from a seed, the first of them often. Each measurement
is a process of its own, and the arms alternate, round by round, until --rounds are done or --minutes are over. Weights
come from one seed on the device: a fingerprint shows that they are the same, the losses that the arms train alike. All
have AdamW, fused, a global norm clipped at 1 and the same samples in the same order.

- ours: `Prepared.run` with guards on and every step logged to a file; the loss takes logits a chunk at a time.
- plain: a hand-written loop, model and loss compiled as one, batches on the device beforehand, nothing logged or read.
- Trainer: that of transformers, at bf16, torch_compile, the fused optimizer, nothing logged. Left out where missing.

Utilisation is FLOPs per token x tokens per second / peak, with FLOPs per token 6 N + 12 L W T (PaLM, appendix B: N
parameters in matrix products, L layers, W width, T context; attention in full, recomputation not counted); the peak is
the rate of a bfloat16 matrix product measured here in the same call, at its best and over seconds of load. That of the
data sheet stands beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.app.session import Recorder
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.optim.schedules.constant import Constant
from modelwright.runs import MetricsWriter, read_metrics
from modelwright.training.measure import peak_bytes
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.flops import FORMULA, count_flops, palm_flops_per_token
from modelwright.training.seeing.peak import measured_peak, table_peak
from modelwright.training.settings import Budget
from modelwright.training.steps import Step
from modelwright.training.training import Training

Row = dict[str, Any]
LR, CLIP, SEED = 1e-4, 1.0, 0
GIB = 2**30

# --- what is trained


def model_of(options: argparse.Namespace) -> nn.Module:
    """The same weights for the same device; made there, since a CPU would take long."""
    torch.manual_seed(SEED)
    with torch.device(options.device):
        return GPT(
            vocabulary=options.vocabulary,
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            hidden=options.hidden,
        ).build()


def data_of(options: argparse.Namespace) -> InMemory:
    """Windows ``[steps x batch, context]`` of tokens whose frequency falls with their number, so that one can learn."""
    generator = torch.Generator().manual_seed(SEED)
    frequencies = 1.0 / torch.arange(1, options.vocabulary + 1)
    windows = (options.warm_up + options.steps) * options.batch
    drawn = torch.multinomial(frequencies, windows * (options.context + 1), replacement=True, generator=generator)
    tokens = drawn.view(windows, options.context + 1)
    return InMemory({"inputs": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()})


def micro_batches(options: argparse.Namespace) -> Iterator[dict[str, Tensor]]:
    """Those of all steps, in the order in which ours draws them."""
    data = data_of(options)
    order = Order(len(data), seed=SEED)
    for first in range(0, len(data), options.micro_batch):
        yield data.__getitems__(order(range(first, first + options.micro_batch)))


def fingerprint(model: nn.Module) -> str:
    """Of all weights, as they are before training."""
    sums = [parameter.detach().double().square().sum() for parameter in model.parameters()]
    return f"{torch.stack(sums).sum().item():.12g}"


class Judged(nn.Module):
    """The model and its loss in one: what the Trainer wants, and what compiles best."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The mean loss over tokens ``[batch, time]``."""
        logits = self.model(inputs).flatten(0, 1)
        return {"loss": functional.cross_entropy(logits.float(), targets.flatten())}


# --- measuring


class Stopwatch:
    """Called at the end of each step. Waits for the device twice only: where timing begins, and where it ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.ends: list[Any] = []
        self.taken = 0
        self.losses: list[Tensor] = []
        self.watch: Watch | None = None
        self.started = time.perf_counter()

    def __call__(self, *losses: Tensor) -> None:
        """A step has ended, with this loss, where it is not logged elsewhere."""
        self.losses.extend(loss.detach() for loss in losses)
        self.taken += 1
        if self.taken < self.options.warm_up:
            return
        if self.taken == self.options.warm_up:
            self._begin()
        self._note()
        if self.taken == self.options.warm_up + self.options.steps:
            self._end()

    def result(self) -> Row:
        """What was measured, JSON-ready."""
        return {
            "warm_up_seconds": self.warm_up_seconds,
            "window_seconds": self.window_seconds,
            "tokens_per_second": self.options.steps * self.options.batch * self.options.context / self.window_seconds,
            "step_seconds": self._steps(),
            "losses": [float(loss) for loss in self.losses],
            "peak_bytes": self.peak,
            "device_state": self.device_state,
        }

    def _begin(self) -> None:
        self._wait()
        self.warm_up_seconds = time.perf_counter() - self.started
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.watch = Watch()
        self.started = time.perf_counter()

    def _note(self) -> None:
        if self.device.type != "cuda":
            self.ends.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.ends.append(event)

    def _end(self) -> None:
        self._wait()
        self.window_seconds = time.perf_counter() - self.started
        self.peak = peak_bytes(self.device)
        self.device_state = self.watch.stop() if self.watch is not None else {}

    def _steps(self) -> list[float]:
        pairs = zip(self.ends, self.ends[1:], strict=False)
        if self.device.type != "cuda":
            return [later - earlier for earlier, later in pairs]
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairs]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Watch:
    """Clocks, power and temperature of the first GPU, asked of nvidia-smi twice a second; it changes nothing."""

    FIELDS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")

    def __init__(self) -> None:
        query = ",".join(self.FIELDS)
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-lms", "500"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self.process = None

    def stop(self) -> Row:
        """Medians; empty where there is no nvidia-smi, or it says nothing."""
        if self.process is None:
            return {}
        self.process.terminate()
        lines, _ = self.process.communicate()
        samples = [found for line in lines.splitlines() if (found := self._numbers(line))]
        if not samples:
            return {}
        columns = zip(self.FIELDS, zip(*samples, strict=True), strict=True)
        return {name: statistics.median(column) for name, column in columns}

    def _numbers(self, line: str) -> list[float]:
        """Of one line; none where it was cut off, or a field is not available."""
        try:
            numbers = [float(word) for word in line.split(",")]
        except ValueError:
            return []
        return numbers if len(numbers) == len(self.FIELDS) else []


# --- the arms: each builds the model, takes all steps and returns what the stopwatch saw


def ours(options: argparse.Namespace, folder: Path, *, precision: str = "bf16", compiled: bool = False) -> Row:
    total = options.warm_up + options.steps
    model, data = model_of(options), data_of(options)
    first = fingerprint(model)
    training = Training(
        model=model,
        data=Splits(train=data),
        objective=NextToken(logits="chunked"),
        optimizer=AdamW(lr=LR, weight_decay=0.0),
        schedule=Constant(),
        batch=options.batch,
        budget=Budget(steps=total),
        clip=CLIP,
        seed=SEED,
    )
    plan = Plan(
        threads=torch.get_num_threads(),
        device=torch.device(options.device).type,
        micro_batch=options.micro_batch,
        precision=precision,
        attention=options.attention,
        recompute=options.recompute,
        compile=compiled,
        steps=total,
    )
    alone = Group(0, 1)
    prepared = Prepared(training, plan, Mesh(alone, torch.device(options.device), {"replicate": alone}))
    counted = _counted(prepared) if not compiled else {}
    stopwatch, path = Stopwatch(options), folder / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        recorder = Recorder(prepared, writer, None)
        for record in prepared.run(None, lambda: False):
            recorder(record)
            if isinstance(record, Step):
                stopwatch()
        recorder.finish()
    rows = read_metrics(path)
    result = {"fingerprint": first, **counted, **stopwatch.result(), "losses": [row["loss"] for row in rows]}
    palm = palm_flops_per_token(model, options.context)
    return result | {"masked": sum(row["masked"] for row in rows), "palm_flops": palm}


def _counted(prepared: Prepared) -> Row:
    flops = count_flops(prepared)
    assert flops is not None
    context = prepared.training.data.train.__getitems__([0])["inputs"].shape[1]  # type: ignore[attr-defined]
    return {"counted_flops": flops.sample / context, "counted_how": flops.how, "counted_formula": FORMULA}


def plain(options: argparse.Namespace, folder: Path, *, compiled: bool = True) -> Row:
    model = model_of(options)
    judged: Any = Judged(model)
    device, first = torch.device(options.device), fingerprint(model)
    batches = [{name: value.to(device) for name, value in batch.items()} for batch in micro_batches(options)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    run = torch.compile(judged) if compiled else judged
    parts = options.batch // options.micro_batch
    stopwatch = Stopwatch(options)
    for begin in range(0, len(batches), parts):
        losses = []
        for batch in batches[begin : begin + parts]:
            with torch.autocast(device.type, torch.bfloat16):
                loss = run(**batch)["loss"] / parts
            loss.backward()
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stopwatch(torch.stack(losses).sum())
    return {"fingerprint": first, **stopwatch.result()}


def trainer(options: argparse.Namespace, folder: Path, *, compiled: bool = True) -> Row:
    import transformers

    model = model_of(options)
    first, parts = fingerprint(model), options.batch // options.micro_batch
    stopwatch: Stopwatch

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            batches = list(micro_batches(options))
            return self.accelerator.prepare(torch.utils.data.DataLoader(batches, batch_size=None, pin_memory=True))

        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            loss = super().training_step(*arguments, **named)
            losses.append(loss)
            return loss

    class AtStepEnd(transformers.TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            stopwatch(torch.stack(losses).sum())
            losses.clear()

    losses: list[Tensor] = []
    settings = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=options.warm_up + options.steps,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=parts,
        learning_rate=LR,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        bf16=True,
        torch_compile=compiled,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device in each step
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=torch.device(options.device).type == "cpu",
    )
    built = Trainer(model=Judged(model), args=settings, train_dataset=data_of(options), callbacks=[AtStepEnd()])
    stopwatch = Stopwatch(options)
    built.train()
    note = f"transformers {transformers.__version__}"
    return {"fingerprint": first, **stopwatch.result(), "note": note}


def rate(options: argparse.Namespace, folder: Path) -> Row:
    """What the device does in bfloat16 matrix products: the best one, and over seconds of load."""
    device = torch.device(options.device)
    best = measured_peak(device, "bf16", seconds=0.5)
    side = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        torch.mm(one, other)
    per_look, done = (50, 0) if device.type == "cuda" else (5, 0)
    _settle(device)
    watch, begun = Watch() if device.type == "cuda" else None, time.perf_counter()
    while time.perf_counter() - begun < options.load_seconds:
        for _ in range(per_look):
            torch.mm(one, other)
        _settle(device)
        done += per_look
    taken = time.perf_counter() - begun
    state = watch.stop() if watch is not None else {}
    known = table_peak(torch.cuda.get_device_name(device), "bf16") if device.type == "cuda" else None
    return {
        "best_flops": best.flops,
        "best_source": best.source,
        "sustained_flops": 2 * side**3 * done / taken,
        "sustained_source": f"{done} products of {side} x {side} matrices in {taken:.1f} s",
        "sheet_flops": None if known is None else known.flops,
        "sheet_source": None if known is None else known.source,
        "device_state": state,
    }


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


ARMS: dict[str, Callable[[argparse.Namespace, Path], Row]] = {
    "ours bf16 compiled": lambda options, folder: ours(options, folder, compiled=True),
    "plain bf16 compiled": lambda options, folder: plain(options, folder),
    "Trainer bf16 compiled": lambda options, folder: trainer(options, folder),
    "ours bf16-weights compiled": lambda options, folder: ours(
        options, folder, precision="bf16-weights", compiled=True
    ),
    "ours bf16": lambda options, folder: ours(options, folder),
    "ours bf16-weights": lambda options, folder: ours(options, folder, precision="bf16-weights"),
    "plain bf16": lambda options, folder: plain(options, folder, compiled=False),
    "Trainer bf16": lambda options, folder: trainer(options, folder, compiled=False),
}
DEFAULT = list(ARMS)[:5]
RATE = "rate"
_LEAST = 20.0  # Seconds left under which nothing is begun.

# --- a process for each measurement


def child(arm: str, options: argparse.Namespace) -> None:
    """Measure, and leave the result as JSON."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device.startswith("cuda"):
        torch.cuda.init()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = rate(options, Path(folder)) if arm == RATE else ARMS[arm](options, Path(folder))
        except Exception as error:
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    Path(options.result).write_text(json.dumps(result))


def measured(arm: str, options: argparse.Namespace, seconds: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--arm", arm, "--result", str(result)]
        begun = time.perf_counter()
        # One GPU: with several in sight the Trainer would spread over them.
        environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ}
        try:
            ended = subprocess.run(command, timeout=seconds, stdout=sys.stderr, env=environment, check=False).returncode
            found = json.loads(result.read_text()) if result.exists() else {"failed": f"ended with status {ended}"}
        except subprocess.TimeoutExpired:
            found = {"failed": "did not end in time"}
        return found | {"arm": arm, "process_seconds": time.perf_counter() - begun}


def rounds(options: argparse.Namespace, arms: list[str], keep: Callable[[list[Row]], None]) -> list[Row]:
    """Arms in turn, each round in another order; nothing is begun that would not end in time."""
    deadline, found, expected = time.perf_counter() + 60 * options.minutes, [], dict.fromkeys(arms, 0.0)
    for number in range(options.rounds):
        if (left := deadline - time.perf_counter()) < _LEAST:
            break
        found.append(measured(RATE, options, left) | {"round": number})
        for arm in arms if number % 2 == 0 else arms[::-1]:
            left = deadline - time.perf_counter()
            if left < max(_LEAST, expected[arm]) or expected[arm] == math.inf:
                continue
            row = measured(arm, options, left) | {"round": number}
            expected[arm] = math.inf if "failed" in row else 1.1 * row["process_seconds"]
            print(f"round {number + 1}: {arm}: {row.get('failed') or _brief(row)}", file=sys.stderr, flush=True)
            found.append(row)
            keep(found)
    return found


def _brief(row: Row) -> str:
    warm_up = f"{row['warm_up_seconds']:.0f} s of it warm-up"
    return f"{row['tokens_per_second']:.0f} tokens/s in {row['process_seconds']:.0f} s, {warm_up}"


# --- what it comes to


def summary(options: argparse.Namespace, found: list[Row]) -> Row:
    done = [row for row in found if row["arm"] != RATE and "failed" not in row]
    rates = [row for row in found if row["arm"] == RATE and "failed" not in row]
    flops = next((row["palm_flops"] for row in done if row.get("palm_flops")), None)
    counted = next((row["counted_flops"] for row in done if "counted_flops" in row), None)
    peaks = {
        "measured": max((row["best_flops"] for row in rates), default=None),
        "sustained": statistics.median(row["sustained_flops"] for row in rates) if rates else None,
        "sheet": rates[0]["sheet_flops"] if rates else None,
    }
    arms = {}
    for arm in dict.fromkeys(row["arm"] for row in done):
        rows = [row for row in done if row["arm"] == arm]
        speeds = [row["tokens_per_second"] for row in rows]
        speed = statistics.median(speeds)
        arms[arm] = {
            "rounds": len(rows),
            "tokens_per_second": speed,
            "tokens_per_second_range": [min(speeds), max(speeds)],
            "step_seconds": statistics.median(second for row in rows for second in row["step_seconds"]),
            "utilisation": {name: flops * speed / peak for name, peak in peaks.items() if flops and peak},
            "counted_utilisation": {name: counted * speed / peak for name, peak in peaks.items() if counted and peak},
            "peak_bytes": max(row["peak_bytes"] for row in rows),
            "warm_up_seconds": [row["warm_up_seconds"] for row in rows],
            "first_loss": rows[0]["losses"][0],
            "last_loss": rows[0]["losses"][-1],
            "losses": rows[0]["losses"],
            "masked": rows[0].get("masked"),
            "device_state": rows[-1]["device_state"],
            "note": rows[0].get("note", ""),
        }
    base = next(iter(arms.values()), {}).get("losses", [])
    for values in arms.values():
        pairs = zip(values["losses"], base, strict=True)
        values["loss_difference"] = max((abs(one - other) / abs(other) for one, other in pairs), default=0.0)
    return {
        "options": {name: value for name, value in vars(options).items() if name not in ("arm", "result")},
        "machine": machine(options),
        "parameters": sum(parameter.numel() for parameter in _shapes(options).parameters()),
        "flops_per_token": {"palm": flops, "counted": counted, "counted_formula": FORMULA},
        "peaks": peaks,
        "fingerprints": sorted({row["fingerprint"] for row in done}),
        "failed": {row["arm"]: row["failed"] for row in found if "failed" in row},
        "arms": arms,
        "rounds": found,
    }


def _shapes(options: argparse.Namespace) -> nn.Module:
    return model_of(argparse.Namespace(**{**vars(options), "device": "meta"}))


def machine(options: argparse.Namespace) -> Row:
    device = torch.device(options.device)
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {os.cpu_count()} cores",
        "driver": _said("nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv,noheader"),
    }


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except OSError:
        return ""


def show(result: Row) -> None:
    options, flops, peaks = result["options"], result["flops_per_token"], result["peaks"]
    print(f"{result['machine']}")
    print(
        f"gpt: {result['parameters'] / 1e9:.3f} B parameters ({options['layers']} layers, width {options['width']}, "
        f"{options['heads']} heads, feed-forward {options['hidden']}, {options['vocabulary']} tokens, tied); context "
        f"{options['context']}, {options['batch']} samples a step in micro-batches of {options['micro_batch']}"
    )
    print(f"timed: {options['steps']} steps after {options['warm_up']}; attention {options['attention']}")
    if flops["palm"]:
        print(f"FLOPs per token: 6 N + 12 L W T = {flops['palm']:.4g}; counted by operator {flops['counted'] or 0:.4g}")
    print("peak of bf16 products, TFLOP/s: " + ", ".join(f"{n} {v / 1e12:.1f}" for n, v in peaks.items() if v))
    print("utilisation = FLOPs per token x tokens per second / peak")
    print(_line(["arm", "tokens/s", "range", "ms/step", *peaks, "GiB", "last loss", "differs"]) + "  clock, power")
    for arm, row in result["arms"].items():
        low, high = row["tokens_per_second_range"]
        shares = [row["utilisation"].get(name) for name in peaks]
        words = [
            arm,
            f"{row['tokens_per_second']:.0f}",
            f"{low:.0f}-{high:.0f}",
            f"{row['step_seconds'] * 1e3:.1f}",
            *("-" if share is None else f"{share:.1%}" for share in shares),
            f"{row['peak_bytes'] / GIB:.2f}",
            f"{row['last_loss']:.5f}",
            f"{row['loss_difference']:.1e}",
        ]
        print(f"{_line(words)}  {_state(row['device_state'])} {row['note']}")
    for arm, reason in result["failed"].items():
        print(f"{arm:<28} failed: {reason}")
    alike = "the same in all arms" if len(result["fingerprints"]) < 2 else "NOT THE SAME"
    print(f"weights before training: {alike} ({', '.join(result['fingerprints'])})")


def _line(words: list[str]) -> str:
    widths = (9, 16, 9, 10, 10, 8, 8, 10, 8)
    return f"{words[0]:<27}" + "".join(f"{word:>{width}}" for word, width in zip(words[1:], widths, strict=True))


def _state(state: Row) -> str:
    if not state:
        return "-"
    return (
        f"{state['clocks.sm']:.0f} of {state['clocks.max.sm']:.0f} MHz, {state['power.draw']:.0f} of "
        f"{state['power.limit']:.0f} W, {state['temperature.gpu']:.0f} C"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=5632)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=16, help="samples of a step")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them; at least 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing goes on for longer")
    parser.add_argument("--load-seconds", type=float, default=3.0, help="of matrix products, for the sustained rate")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for torch's own choice")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=DEFAULT)
    parser.add_argument("--out", type=Path, default=Path("gpu_train.json"))
    parser.add_argument("--arm", choices=[*ARMS, RATE], help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = str(options.out)
    if options.batch % options.micro_batch or options.warm_up < 1:
        parser.error("--micro-batch divides --batch, and --warm-up is at least 1")
    return options


def main() -> None:
    options = parsed()
    if options.arm:
        child(options.arm, options)
        return
    arms, absent = options.arms, {}
    if importlib.util.find_spec("transformers") is None:
        arms = [arm for arm in arms if not arm.startswith("Trainer")]
        absent = {arm: "transformers is not installed" for arm in options.arms if arm not in arms}

    def keep(found: list[Row]) -> Row:
        result = summary(options, found)
        result["failed"] |= absent
        Path(options.out).write_text(json.dumps(result, indent=1))
        return result

    found = rounds(options, arms, keep)
    absent |= {arm: "not begun, for want of time" for arm in arms if arm not in {row["arm"] for row in found}}
    show(keep(found))


if __name__ == "__main__":
    main()
