"""What is trained while it is killed: an MLP on digits, and a small GPT on a mixture of two texts."""

from __future__ import annotations

import json
import pydoc_data
from collections.abc import Iterator
from pathlib import Path

Fields = dict[str, str]

JOBS = ("digits", "text")

_BOTH = {
    "optimizer": "{use: adamw, lr: 1e-3}",
    "averaging": "ema",
    "watch": "{samples: true, utilisation: false}",
}
DIGITS = _BOTH | {
    "model": "{use: mlp, hidden: [64], dropout: 0.2}",
    "data": "sklearn",
    "objective": "classification",
    "batch": "32",
    "budget": "{epochs: 4}",
    "saving": "{every: 8}",
    "plan": "{measure: false, workers: 2, threads: 1, micro_batch: 6, precision: fp32}",
}
TEXT = _BOTH | {
    "model": "{use: gpt, layers: 2, width: 32, heads: 2, dropout: 0.1}",
    "objective": "next-token",
    "batch": "16",
    "budget": "{steps: 60}",
    "saving": "{every: 4}",
    "plan": "{measure: false, workers: 2, threads: 1, micro_batch: 5, precision: fp32}",
}
ELASTIC = {"launch": "{min: 1, max: 3, rejoin: 1s}"}

# Documents of a line or two in windows of 32 bytes: most windows hold a border.
_SOURCE = (
    "{{use: text-records, root: '{root}', files: [{name}.jsonl], "
    "context: 32, held_out: 0, tokenizer: byte, documents: separate}}"
)
_MIXTURE = (
    "{{use: mixture, sources: {{code: {{weight: 0.7, data: {code}}}, words: {{weight: 0.3, data: {words}}}}}, "
    "phases: [{{at: 160, weights: {{code: 0.4, words: 0.6}}}}]}}"
)
_WINDOWS = {"code": 100, "words": 50}


def job(name: str, folder: Path, *, elastic: bool = False) -> Fields:
    """The recipe of a job, whose texts are written to ``folder``; elastic ones have three workers and no dropout."""
    fields = dict(DIGITS) if name == "digits" else TEXT | {"data": texts(folder)}
    return without_dropout(with_workers(fields, 3)) | ELASTIC if elastic else fields


def with_workers(fields: Fields, workers: int) -> Fields:
    """The same for a fixed number of workers."""
    fixed = {name: value for name, value in fields.items() if name != "launch"}
    before, _, after = fixed["plan"].partition("workers: ")
    return fixed | {"plan": f"{before}workers: {workers}{after[1:]}"}


def without_dropout(fields: Fields) -> Fields:
    """The same with every unit, as worlds of other sizes draw other masks."""
    return fields | {"model": fields["model"].partition(", dropout")[0] + "}"}


def texts(folder: Path) -> str:
    """Write both sources, lines of the standard library's code and of its help, and describe their mixture."""
    library = Path(json.__file__).parent
    files = {"code": library / "decoder.py", "words": Path(pydoc_data.__path__[0]) / "topics.py"}
    for name, path in files.items():
        rows = [json.dumps({"text": text}) for text in _documents(path, 32 * _WINDOWS[name] + 16)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    parts = {name: _SOURCE.format(root=folder, name=name) for name in files}
    return _MIXTURE.format(**parts)


def _documents(path: Path, tokens: int) -> Iterator[str]:
    """Lines, with an end-of-text token each; as many tokens from every version of Python."""
    for line in dict.fromkeys(path.read_text(encoding="utf-8").splitlines()):
        if not line.isascii() or len(line) < 20:
            continue
        if tokens <= 20:
            return
        yield line[: tokens - 1]
        tokens -= len(line) + 1
