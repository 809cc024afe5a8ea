"""Writing a table in bounded memory: two readings of the files, and one of the numbers they gave.

The first reading finds what each column holds and draws a lot for each row. The second writes raw numbers and
sums up the training rows. Then the numbers are standardised and parted, chunk by chunk.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import make_folder, speaking
from modelwright.base.units import count_text
from modelwright.data.manifest import write_manifest
from modelwright.data.tables import decide
from modelwright.data.tables.columns import Column, Number
from modelwright.data.tables.encoder import TableEncoder, raw_inputs, report_missing, report_unknown
from modelwright.data.tables.moments import Moments
from modelwright.data.tables.scan import ColumnScan, check_columns, lots
from modelwright.data.tables.target import Classes, Quantity, Target

if TYPE_CHECKING:
    from modelwright.data.tables.tables import Table

CHUNK = 4096  # rows in memory at once
_SCRATCH = "scratch"
Chunk = tuple[list[str], list[dict[str, Any]]]


def write(table: Table, folder: Path) -> None:
    """Write the parts of ``table`` and its description to ``folder``.

    Raises:
        ModelwrightError: the files hold no rows, or one that cannot be used; or the disk is full.
    """
    before = table.stamps()
    try:
        encoder = _written(table, folder)
    except Exception:
        _check_unchanged(table, before)  # else whatever went wrong is not what is wrong
        raise
    _check_unchanged(table, before)
    encoder.save(folder)
    facts = {"features": len(encoder.mean), "classes": encoder.target.outputs}
    write_manifest(folder, {"facts": facts})
    _report(folder, encoder)


def _written(table: Table, folder: Path) -> TableEncoder:
    scratch = folder / _SCRATCH
    make_folder(scratch)
    with speaking(folder):
        drawn, scans = _scanned(table, scratch / "lots")
        threshold = _threshold(drawn, table.held_out_share)
        columns, target = _decided(table, scans, threshold)
        encoder = _raw(table, columns, target, drawn >= threshold, scratch)
        _parted(encoder, drawn >= threshold, scratch, folder)
        del drawn
        shutil.rmtree(scratch)
    return encoder


def _check_unchanged(table: Table, before: object) -> None:
    if table.stamps() != before:
        raise ModelwrightError("a file changed while it was read", where=table.shown, remedy="start again")


def _chunks(table: Table) -> Iterator[tuple[str, Chunk]]:
    """Parts of the files: the part they are of, places and rows."""
    for part, path in table.sources():
        rows = table.rows(path)
        while chunk := list(islice(rows, CHUNK)):
            yield part, ([place for place, _ in chunk], [row for _, row in chunk])


def _scanned(table: Table, path: Path) -> tuple[NDArray[np.float64], dict[str, ColumnScan]]:
    """The lot of each row, memory-mapped, and what was seen of each column."""
    scans: dict[str, ColumnScan] = {}
    known: frozenset[str] = frozenset()
    with path.open("wb") as file:
        for part, (places, rows) in _chunks(table):
            if not scans:
                there = {name for row in rows for name in row}
                check_columns(there, [table.target, *table.features], places[0], "target or features")
                scans = {name: ColumnScan(name, table.keeps_levels(name)) for name in _names(table, rows[0])}
                known = frozenset(rows[0])
            if not table.features:
                _check_known(known, rows, places)
            columns = [[row.get(name) for row in rows] for name in scans]
            drawn = _drawn(table, part, columns)
            for scan, values in zip(scans.values(), columns, strict=True):
                scan.add(values, places, drawn)
            drawn.tofile(file)
    if not scans:
        raise ModelwrightError("the files hold no rows", where=table.shown, remedy="choose other files")
    return np.memmap(path, dtype=np.float64, mode="r"), scans


def _names(table: Table, row: Mapping[str, Any]) -> list[str]:
    """The features in order, then the target."""
    features = table.features or tuple(name for name in row if name != table.target)
    if not features:
        raise ModelwrightError("there is no column but the target", where=table.shown, remedy="choose other files")
    return [*features, table.target]


def _check_known(known: frozenset[str], rows: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    """With no features named, the first row says which columns there are; later ones may lack some."""
    for row, place in zip(rows, places, strict=True):
        if not known.issuperset(row):
            raise ModelwrightError(
                f"column '{next(name for name in row if name not in known)}' is not in the first row",
                where=place,
                remedy="name the columns to learn from in features",
            )


def _drawn(table: Table, part: str, columns: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
    if not table.splits_by_file:
        return lots(columns, table.seed)
    return np.full(len(columns[0]), -1.0 if part == "held_out" else 1.0)


def _threshold(drawn: NDArray[np.float64], share: float | None) -> float:
    """Rows whose lot is below it are held out: about ``share``, but at least one row and not all."""
    if share is None or share == 0:
        return 0.0  # files decide, or nothing is held out: lots are not negative
    low, high = float(drawn.min()), float(drawn.max())
    if low == high:
        raise ModelwrightError(
            "nothing can be held out of one row, or of rows that are all equal", where="held_out", remedy="held_out: 0"
        )
    if low >= share:
        return float(np.nextafter(low, 1.0))
    return min(share, high)


def _decided(table: Table, scans: Mapping[str, ColumnScan], threshold: float) -> tuple[list[Column], Target]:
    *features, target = scans.values()
    columns = [
        decide.feature(scan, scan.name in table.categorical, table.categories, threshold, table.shown)
        for scan in features
    ]
    return columns, decide.target(target, table.kind, table.declared().get(table.target))


def _raw(
    table: Table, columns: Sequence[Column], target: Target, learnt: NDArray[np.bool_], scratch: Path
) -> TableEncoder:
    """Write raw numbers to ``scratch``; returns what the training rows say of them."""
    inputs, targets, begin = Moments(), Moments(), 0
    unknown: dict[str, list[str]] = {}
    missing: Counter[str] = Counter()
    with (scratch / "inputs").open("wb") as input_file, (scratch / "targets").open("wb") as target_file:
        for _, (places, rows) in _chunks(table):
            raw, strange, blank = raw_inputs(columns, rows, places, table.missing)
            wanted = target.raw([row.get(target.name) for row in rows], places)
            for name, texts in strange.items():
                unknown.setdefault(name, []).extend(texts)
            missing.update(blank)
            train = learnt[begin : begin + len(rows)]
            inputs.add(raw[train])
            targets.add(wanted[train, None].astype(np.float64))
            raw.tofile(input_file)
            wanted.tofile(target_file)
            begin += len(rows)
    report_unknown(unknown)
    report_missing(missing, begin)
    return _encoder(table, columns, target, inputs, targets)


def _encoder(
    table: Table, columns: Sequence[Column], target: Target, inputs: Moments, targets: Moments
) -> TableEncoder:
    numbers = np.concatenate([np.full(column.width, isinstance(column, Number)) for column in columns])
    names = [column.name for column in columns for _ in range(column.width)]
    if (empty := numbers & (inputs.count == 0)).any():
        raise ModelwrightError(
            f"column '{names[int(empty.argmax())]}' holds no value in the training rows",
            where=table.shown,
            remedy="leave it out of features",
        )
    scaled = numbers & table.standardise
    if (beyond := scaled & ~np.isfinite(inputs.spread)).any():
        raise ModelwrightError(
            f"column '{names[int(beyond.argmax())]}' holds numbers that are too large",
            where=table.shown,
            remedy="scale the column, or mend its largest values",
        )
    if isinstance(target, Quantity) and table.standardise:
        target = replace(target, mean=float(targets.mean[0]), spread=float(targets.spread[0]))
    return TableEncoder(
        tuple(columns),
        target,
        table.missing,
        fill=np.where(numbers, inputs.mean, 0.0),
        mean=np.where(scaled, inputs.mean, 0.0),
        spread=np.where(scaled, inputs.spread, 1.0),
    )


def _parted(encoder: TableEncoder, learnt: NDArray[np.bool_], scratch: Path, folder: Path) -> None:
    """Settle the raw numbers and deal them out to the two parts."""
    raw = np.memmap(scratch / "inputs", np.float64, "r").reshape(len(learnt), -1)
    kind = np.int64 if isinstance(encoder.target, Classes) else np.float64
    targets = np.memmap(scratch / "targets", kind, "r")
    for part, chosen in (("train", learnt), ("held_out", ~learnt)):
        rows = np.flatnonzero(chosen)
        if not len(rows):
            continue
        out = _created(folder / f"{part}_inputs.npy", (len(rows), raw.shape[1]), np.float32)
        out_targets = _created(folder / f"{part}_targets.npy", *_target_shape(encoder.target, len(rows)))
        for begin in range(0, len(rows), CHUNK):
            here = rows[begin : begin + CHUNK]
            out[begin : begin + len(here)] = encoder.settled(raw[here])
            out_targets[begin : begin + len(here)] = _settled_targets(encoder.target, targets[here])
        out.flush()
        out_targets.flush()


def _target_shape(target: Target, rows: int) -> tuple[tuple[int, ...], Any]:
    return ((rows,), np.int64) if isinstance(target, Classes) else ((rows, 1), np.float32)


def _settled_targets(target: Target, raw: NDArray[Any]) -> NDArray[Any]:
    if isinstance(target, Classes):
        return raw
    return np.asarray((raw[:, None] - target.mean) / target.spread, dtype=np.float32)


def _created(path: Path, shape: tuple[int, ...], kind: Any) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _report(folder: Path, encoder: TableEncoder) -> None:
    rows = {
        part: len(np.load(path, mmap_mode="r"))
        for part in ("train", "held_out")
        if (path := folder / f"{part}_targets.npy").is_file()
    }
    kind, count = encoder.target.described()["kind"], sum(rows.values())
    texts = [column.name for column in encoder.columns if not isinstance(column, Number)]
    events.emit(
        "data-prepared",
        f"{count_text(count)} rows of {len(encoder.columns)} columns ({len(texts)} of texts) became"
        f" {len(encoder.mean)} features; '{encoder.target.name}' is taken for {kind}",
        rows=rows,
        features=len(encoder.mean),
        categorical=texts,
        learnt=kind,
        classes=list(encoder.target.classes) if isinstance(encoder.target, Classes) else [],
    )
