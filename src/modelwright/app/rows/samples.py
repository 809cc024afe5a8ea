"""Samples to predict for: held-out ones, or those of a file, in micro-batches as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Splits, Tokenizer
from modelwright.data.batches import read
from modelwright.data.media.file_encoder import FileEncoder
from modelwright.data.tables.encoder import TableEncoder
from modelwright.data.tables.records import kind_of, lines, records
from modelwright.objectives.fields import IGNORED
from modelwright.objectives.next_token import NextToken

if TYPE_CHECKING:
    from modelwright.data import Batch


def held_out_batches(dataset: Dataset, size: int) -> Iterator[Batch]:
    """All samples of a data set, in order."""
    for begin in range(0, len(dataset), size):
        yield read(dataset, np.arange(begin, min(begin + size, len(dataset))))


def file_batches(path: Path, size: int, objective: object, data: Splits, context: int | None) -> Iterator[Batch]:
    """The samples of a file, in order, ``size`` at a time; nothing more of it is in memory.

    Args:
        path: ``.npy`` of inputs ``[samples, ...]``, as the model reads them; rows of a table (``.csv``, ``.jsonl``,
            ``.parquet``); for a model of images or sounds also one of them, a folder of them, or rows with their
            paths, from the folder of the rows; for a language model rows with a ``text``, or ``.txt`` with a text in
            each line.
        size: samples of one batch.
        objective: of the run.
        data: of the run; its encoder makes rows of a table the model's inputs.
        context: tokens of one window, for a language model.

    Raises:
        ModelwrightError: the file cannot be read, or its rows are not what the model reads.
    """
    if not path.is_file() and not (path.is_dir() and _endings(data)):
        raise ModelwrightError("the file does not exist", where=str(path), remedy="name an existing file")
    if isinstance(objective, NextToken):
        if data.tokenizer is None or context is None:
            raise ModelwrightError("the run keeps no tokenizer that could read a file", where=str(path))
        return _stacked(_windows(_texts(path), data.tokenizer, context), size)
    if kind_of(path) == ".npy":
        _check_no_table(path, data)
        return _array_batches(path, size)
    return _row_batches(path, size, data)


def samples_in(path: Path, data: Splits) -> int | None:
    """How many samples a file has, where that is known without reading it."""
    if (files := files_in(path, data)) is not None:
        return len(files)
    return len(_mapped(path)) if kind_of(path) == ".npy" and path.is_file() else None


def files_in(path: Path, data: Splits) -> list[Path] | None:
    """The images or sounds that ``path`` is, or holds, in the order of their names; ``None``: it is something else.

    Raises:
        ModelwrightError: a folder without any.
    """
    endings = _endings(data)
    if path.suffix.lower() in endings and path.is_file():
        return [path]
    if not endings or not path.is_dir():
        return None
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in endings and each.is_file())
    if not found:
        raise ModelwrightError(
            "the folder holds no files that the model reads", where=str(path), remedy=", ".join(sorted(endings))
        )
    return found


def _endings(data: Splits) -> frozenset[str]:
    return data.encoder.endings if isinstance(data.encoder, FileEncoder) else frozenset()


def _check_no_table(path: Path, data: Splits) -> None:
    """Numbers without the names of their columns would reach the model as they are, not as it learnt them."""
    if isinstance(data.encoder, TableEncoder):
        raise ModelwrightError(
            "the run learnt from a table, and an array does not say which column is which",
            where=str(path),
            remedy="give the rows with their names, in .csv, .jsonl or .parquet",
        )


def _array_batches(path: Path, size: int) -> Iterator[Batch]:
    array = _mapped(path)
    for begin in range(0, len(array), size):
        rows = torch.from_numpy(np.array(array[begin : begin + size]))
        yield {"inputs": rows.float() if rows.dtype == torch.float64 else rows}


def _mapped(path: Path) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ModelwrightError(
            f"this is no .npy array of numbers: {error}", where=str(path), remedy="write it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ModelwrightError("this is no array of numbers with rows", where=str(path))
    return array


def _row_batches(path: Path, size: int, data: Splits) -> Iterator[Batch]:
    rows, begin = _rows(path, data), 0
    while part := list(islice(rows, size)):
        try:
            yield data.encoder.encode(part) if data.encoder is not None else {"inputs": _inputs(part)}
        except ModelwrightError as error:
            place = f"{path}, rows {begin + 1} to {begin + len(part)}"
            where = f"{place}: {error.where}" if error.where else place
            raise ModelwrightError(error.what, where=where, remedy=error.remedy) from error
        begin += len(part)


def _rows(path: Path, data: Splits) -> Iterator[dict[str, Any]]:
    if not isinstance(data.encoder, FileEncoder):
        yield from records(path)
        return
    column = data.encoder.column
    if (files := files_in(path, data)) is not None:
        yield from ({column: str(file)} for file in files)
        return
    for row in records(path):
        name = row.get(column)
        yield row | {column: str(path.parent / name)} if isinstance(name, str) and name else row


def _inputs(rows: list[dict[str, Any]]) -> Tensor:
    """``inputs`` of rows as they are, for data that knows no columns."""
    try:
        inputs = torch.tensor([row["inputs"] for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelwrightError(
            "the run's data does not say what the columns of a table mean, and rows have no 'inputs' of equal shape",
            remedy='give an array of inputs in .npy, or rows such as {"inputs": [0.5, 1.0]} in .jsonl',
        ) from error
    return inputs.float() if inputs.dtype == torch.float64 else inputs


def _texts(path: Path) -> Iterator[str]:
    if kind_of(path) == ".txt":
        yield from (line.rstrip("\r\n") for _, line in lines(path))
        return
    for number, row in enumerate(records(path), start=1):
        if not isinstance(row.get("text"), str):
            raise ModelwrightError(
                "a row has no 'text'", where=f"{path}, row {number}", remedy='write rows such as {"text": "..."}'
            )
        yield row["text"]


def _windows(texts: Iterable[str], tokenizer: Tokenizer, context: int) -> Iterator[Batch]:
    """Each text in windows that follow each other; the first begins with the end of the text before."""
    for number, text in enumerate(texts):
        tokens = [tokenizer.end_of_text, *map(int, tokenizer.encode(text.encode("utf-8", "surrogateescape")))]
        for begin in range(0, max(1, len(tokens) - 1), context):
            inputs, targets = tokens[begin : begin + context], tokens[begin + 1 : begin + context + 1]
            yield {
                "inputs": _filled(inputs[: max(1, len(targets))], context, 0),
                "targets": _filled(targets, context, IGNORED),
                "record": torch.tensor(number),
            }


def _filled(tokens: list[int], length: int, value: int) -> Tensor:
    return torch.tensor([*tokens, *[value] * (length - len(tokens))])


def _stacked(samples: Iterator[Batch], size: int) -> Iterator[Batch]:
    while part := list(islice(samples, size)):
        yield {name: torch.stack([sample[name] for sample in part]) for name in part[0]}
