"""Small folders and files for the techniques of images, sound, labelled text, chats and pairs."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modelwright.data.media.image_folder import ImageFolder
from modelwright.data.media.wav import Wav
from modelwright.data.sequences.instructions import Instructions
from modelwright.data.sequences.pairs import SequencePairs
from modelwright.data.sequences.preferences import Preferences
from modelwright.data.sequences.python_names import PythonNames
from modelwright.data.sequences.stdlib_classes import PythonStdlibClasses
from modelwright.data.sequences.synthetic import SyntheticInstructions, SyntheticPreferences
from modelwright.data.sequences.text_classes import TextClasses
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte
from modelwright.data.tokenizers.local import Local

WORDS = ("red", "green", "blue", "deep", "sea", "sky", "stone", "wind", "fire", "ice", "sand", "moss")
CHATS = [[{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"{word}!"}] for word in WORDS]


def write_records(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_images(root: Path, count: int = 5) -> Path:
    """``count`` images of noise for each of two classes, of several modes and shapes."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            random = np.random.default_rng([ord(label[0]), number])
            shape = (9 + number, 14, 3)[: 3 if number % 2 else 2]
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(root / label / f"{number}.png")
    return root


def write_sounds(root: Path, count: int = 4, rate: int = 800) -> Path:
    """``count`` files of 16-bit noise for each of two classes."""
    random = np.random.default_rng(0)
    for label in ("bird", "horn"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            with wave.open(str(root / label / f"{number}.wav"), "wb") as file:
                file.setnchannels(1 + number % 2)
                file.setsampwidth(2)
                file.setframerate(rate)
                samples = random.integers(-(2**15), 2**15, (60 + 30 * number) * (1 + number % 2), dtype="<i2")
                file.writeframes(samples.tobytes())
    return root


def local_tokenizer(folder: Path) -> Local:
    """A byte-level tokenizer as the ``tokenizers`` library writes it."""
    target = folder / "local-tokenizer"
    target.mkdir(exist_ok=True)
    Bpe(vocabulary=300).train([b"def first(values):\n    return values[0]\n"] * 3).save(target)
    return Local(folder=str(target))


def _text_classes(folder: Path) -> TextClasses:
    rows = [{"text": f"{word} {word}s", "label": "late" if word > "m" else "early"} for word in WORDS]
    path = write_records(folder / "labelled.jsonl", rows)
    return TextClasses(files=(str(path),), tokenizer=Byte(), length=12, held_out=0.3)


def _pairs(folder: Path) -> SequencePairs:
    rows = [{"source": chat[0]["content"], "target": chat[1]["content"]} for chat in CHATS]
    path = write_records(folder / "pairs.jsonl", rows)
    return SequencePairs(files=(str(path),), tokenizer=Byte(), source_length=12, target_length=8, held_out=0.3)


def _instructions(folder: Path) -> Instructions:
    path = write_records(folder / "chats.jsonl", [{"messages": chat} for chat in CHATS])
    return Instructions(files=(str(path),), tokenizer=Bpe(vocabulary=270), context=48, held_out=0.3)


def _preferences(folder: Path) -> Preferences:
    rows = [{"prompt": one["content"], "chosen": two["content"], "rejected": "No."} for one, two in CHATS]
    path = write_records(folder / "preferences.jsonl", rows)
    return Preferences(files=(str(path),), tokenizer=Byte(), context=64, held_out=0.3)


EXAMPLES: dict[str, Callable[[Path], Any]] = {
    "image-folder": lambda folder: ImageFolder(folder=str(write_images(folder / "images")), size=6, held_out=0.3),
    "wav": lambda folder: Wav(folder=str(write_sounds(folder / "sounds")), rate=800, seconds=0.1, held_out=0.3),
    "text-classes": _text_classes,
    "python-stdlib-classes": lambda folder: PythonStdlibClasses(tokenizer=Byte(), classes=3, pieces=40, length=64),
    "sequence-pairs": _pairs,
    "python-names": lambda folder: PythonNames(tokenizer=Byte()),
    "instructions": _instructions,
    "synthetic-instructions": lambda folder: SyntheticInstructions(tokenizer=Byte(), count=60),
    "preferences": _preferences,
    "synthetic-preferences": lambda folder: SyntheticPreferences(tokenizer=Byte(), count=60),
}
