"""A run as training leaves it, made up from formulas."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from modelwright.base.events import Event
from modelwright.base.plan import Plan, Prediction
from modelwright.runs import EventLog, MetricsWriter, Run

RECIPE = """\
model:
  use: gpt
  width: 256
  depth: 6
  heads: 8
data:
  use: python-stdlib
  held_out: 0.05
  tokenizer:
    use: bpe
    vocabulary: 2048
objective:
  use: next-token
optimizer:
  use: muon
  lr: 0.02
schedule:
  use: cosine
  warm_up: 0.05
budget:
  time: 90s
"""

SECTIONS = [
    {
        "title": "Bits per byte on held-out files",
        "text": "The same 24 files, each compressor on each file alone.",
        "table": {
            "columns": ["Method", "Bits per byte", "Bytes"],
            "rows": [
                ["this model", 2.046, 512_331],
                ["gzip -9", 2.161, 541_080],
                ["lzma", 2.118, 530_344],
                ["byte frequency", 4.618, 1_156_201],
            ],
        },
    },
    {
        "title": "Generated",
        "text": 'def read_line(self, limit=-1):\n    """Read one line."""\n    if limit < 0:\n'
        "        return self._buffer.readline()\n    return self._buffer.read(limit) & 0xFF\n",
    },
]


def plan() -> Plan:
    return Plan(
        workers=2,
        layout={"replicate": 2},
        micro_batch=16,
        precision="bf16",
        attention="sdpa",
        steps=1500,
        prediction=Prediction(
            step_seconds=0.058,
            step_seconds_low=0.052,
            step_seconds_high=0.066,
            peak_bytes=1_450_000_000,
            samples_per_second=552.0,
            source="measured: 4 steps of the real loop",
        ),
        reasons={
            "precision": "bf16 took 58 ms a step, fp32 201 ms",
            "micro_batch": "16 gave the most samples a second of 8, 16, 32",
            "attention": "sdpa was 1.3 times as fast as explicit",
        },
    )


def write_metrics(path: Path, steps: int = 1500) -> None:
    numbers = random.Random(7)
    seconds = 0.0
    with MetricsWriter(path) as writer:
        for step in range(1, steps + 1):
            taken = 0.059 * math.exp(numbers.gauss(0, 0.05)) + (0.05 if step % 200 == 0 else 0)
            seconds += taken
            masked = step == steps // 3
            loss = 2.1 + 5.5 * math.exp(-step / (steps / 6)) + numbers.gauss(0, 0.09)
            writer.write(
                {
                    "kind": "step",
                    "step": step,
                    "loss": math.nan if masked else loss,
                    "learning_rate": 0.02 * min(1, step / 75) * 0.5 * (1 + math.cos(math.pi * step / steps)),
                    "gradient_norm": math.exp(numbers.gauss(-0.5, 0.3)) * (1 + 8 * math.exp(-step / 60)),
                    "samples": 32 * step,
                    "tokens": 32 * 256 * step,
                    "seconds": seconds,
                    "step_seconds": taken,
                    "memory_bytes": round(1.31e9 + 2e7 * min(step, 40) / 40),
                    "masked": masked,
                }
            )
            if step % 150 == 0:
                bits = 2.02 + 3 * math.exp(-step / (steps / 5))
                row = {"kind": "evaluation", "step": step, "seconds": seconds, "part": "held-out-part"}
                writer.write({**row, "bits_per_byte": bits + numbers.gauss(0, 0.03), "loss": bits * 2.2})
        row = {"kind": "evaluation", "step": steps, "seconds": seconds, "part": "held-out"}
        writer.write({**row, "bits_per_byte": 2.046, "loss": 4.5})


def trained_run(folder: Path, name: str = "demo-gpt", steps: int = 1500) -> Run:
    run = Run.create(folder, name, "train")
    run.write_recipe(RECIPE)
    run.write_plan(plan())
    run.write_environment()
    run.update(status="running")
    write_metrics(run.metrics_path, steps)
    log = EventLog(run.events_path)
    log(Event(kind="plan-chosen", message="micro-batch 16, bf16, sdpa after 4 measured steps each"))
    log(Event(kind="step-masked", message="the loss was not finite; the update was left out", level="warning"))
    for step in (200, 400, 600):
        log(Event(kind="checkpoint-saved", message="a checkpoint was saved", details={"step": step}))
    log.close()
    (run.checkpoints / "step-1500").mkdir()
    (run.checkpoints / "step-1500" / "model.safetensors").write_bytes(b"\0" * 4096)
    (run.artifacts / "sections.json").write_text(json.dumps(SECTIONS))
    run.update(
        status="finished",
        summary={"bits_per_byte": 2.046, "loss": 4.5, "training_seconds": 89.6, "parameters": 6_412_800},
    )
    return run
