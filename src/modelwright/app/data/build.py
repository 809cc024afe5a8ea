"""``data build``: shards from a recipe's text, or from files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from modelwright.app.data.progress import counting_bytes
from modelwright.app.data.stats import summed
from modelwright.app.display import Whole, speaker, table
from modelwright.app.stopping import ended_by_sigterm
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.events import listening
from modelwright.base.units import bytes_text, count_text, parse_bytes, parse_count, seconds_text
from modelwright.data import TOKENIZERS
from modelwright.data.shards.building import Build
from modelwright.data.tables.records import READERS, kind_of
from modelwright.data.texts.text import Text
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.texts.text_records import TextRecords
from modelwright.recipe import load_recipe

Facts = dict[str, Any]


def build(
    recipe: str | None,
    overrides: Sequence[str],
    *,
    folder: Path,
    files: Sequence[str],
    root: str | None,
    text: str | None,
    tokenizer: str | None,
    held_out: float | None,
    seed: int | None,
    shard_size: str,
    workers: int | None,
    console: Console,
) -> Facts:
    """Build shards, or what is missing of them.

    Args:
        recipe: whose data is text; or ``None``, and ``files`` say what to take.
        overrides: of the recipe.
        folder: where shards are written.
        files: patterns of files, or of rows that hold a column of text.
        root: the folder that patterns start from.
        text: the column; ``None``: ``text``.
        tokenizer: ``byte``, ``bpe:VOCABULARY`` or ``local:FOLDER``; ``None``: the recipe's, else ``bpe``.
        held_out: part of the documents to judge by.
        seed: chooses which. A recipe says these and ``root`` and ``text`` itself.
        shard_size: text of one shard, about.
        workers: processes; ``None``: one for each core.
        console: shows a bar.

    Returns:
        Facts, JSON-ready.

    Raises:
        ModelwrightError: see :class:`modelwright.data.shards.building.Build`; or what is given is no text.
    """
    made = _technique(tokenizer) if tokenizer is not None else None
    if (recipe is None) == (not files):
        raise ModelwrightError(
            "name either a recipe or files",
            where="data build",
            remedy="modelwright data build --files '*.txt' --out FOLDER",
        )
    given = {"root": root, "text": text, "held_out": held_out, "seed": seed}
    fields = {name: value for name, value in given.items() if value is not None}
    source = _of_recipe(recipe, overrides, fields) if recipe is not None else _of_files(files, fields)
    work = Build(
        shard_bytes=_shard_bytes(shard_size),
        texts=source.texts(),
        technique=made or source.tokenizer,
        held_out=source.held_out,
        seed=source.seed,
        folder=folder,
        workers=workers or os.cpu_count() or 1,
    )
    started = time.perf_counter()
    with listening(speaker(console)), ended_by_sigterm(), _going_on(console), counting_bytes(console) as advance:
        manifest = work.run(advance)
    facts = {"folder": str(folder), "vocabulary": manifest.vocabulary, "seconds": time.perf_counter() - started}
    return facts | {"splits": {split: summed(shards) for split, shards in manifest.splits.items()}}


@contextmanager
def _going_on(console: Console) -> Iterator[None]:
    """Where somebody ends the block, say what becomes of its work."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("what is written stays: the same command goes on")
        raise


def built(facts: Facts) -> RenderableType:
    """What was built, as a table."""
    rows: dict[str, object] = {"folder": Whole(facts["folder"]), "vocabulary": facts["vocabulary"]}
    for split, counts in facts["splits"].items():
        rows[split] = (
            f"{counts['shards']} shards, {counts['documents']} documents, {count_text(counts['tokens'])} tokens"
            f" of {bytes_text(counts['text_bytes'])} of text"
        )
    rows["took"] = seconds_text(facts["seconds"])
    rows["use it"] = Whole(f"data: {{use: token-shards, path: {facts['folder']}}}")
    return table("shards", rows)


def _of_recipe(recipe: str, overrides: Sequence[str], fields: Facts) -> Text:
    if fields:
        name = next(iter(fields))
        raise ModelwrightError(
            f"{name} is for --files; a recipe says it itself", where=f"--{name}", remedy=f"data.{name}={fields[name]}"
        )
    data = load_recipe(recipe, overrides).data
    if not isinstance(data, Text):
        raise ModelwrightError(
            f"the recipe's data is no text: {type(data).__name__}",
            where=recipe,
            remedy="shards are built of python-stdlib, text-files and text-records",
        )
    return data


def _of_files(files: Sequence[str], fields: Facts) -> Text:
    rows = [kind_of(Path(pattern)) in READERS.listing for pattern in files]
    if all(rows):
        return TextRecords(files=tuple(files), **fields)
    if any(rows):
        raise ModelwrightError(
            "some patterns are of files of rows, some are not", where="--files", remedy="build them apart"
        )
    if "text" in fields:
        raise ModelwrightError(
            "files that have no rows have no columns", where="--text", remedy="leave it out, or name .jsonl files"
        )
    return TextFiles(files=tuple(files), **fields)


def _technique(wanted: str) -> Any:
    """``bpe:32k`` -> ``Bpe(vocabulary=32000)``."""
    use, _, argument = wanted.partition(":")
    if use not in TOKENIZERS.listing:
        raise ModelwrightError(
            f"there is no tokenizer named '{use}'", where="--tokenizer", remedy=nearest(use, TOKENIZERS.listing)
        )
    if use == "local" and not argument:
        raise ModelwrightError("the local tokenizer needs its folder", where="--tokenizer", remedy="local:FOLDER")
    technique = TOKENIZERS.resolve(use)
    if use == "bpe" and argument:
        with _of("--tokenizer"):
            return technique(vocabulary=parse_count(argument))
    return technique(folder=argument) if use == "local" else technique()


def _shard_bytes(size: str) -> int:
    with _of("--shard-size"):
        return parse_bytes(size)


@contextmanager
def _of(option: str) -> Iterator[None]:
    """Say with which option a value inside was given."""
    try:
        yield
    except ModelwrightError as error:
        error.where = error.where or option
        raise
