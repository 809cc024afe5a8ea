"""Records: the rows of a file, one by one, whatever its kind; each knows the line it stands in."""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError

Record = dict[str, Any]

READERS = Family(
    "kind of file",
    {
        ".csv": "modelwright.data.tables.csv_files:read",
        ".tsv": "modelwright.data.tables.csv_files:read",
        ".jsonl": "modelwright.data.tables.jsonl:read",
        ".ndjson": "modelwright.data.tables.jsonl:read",
        ".parquet": "modelwright.data.tables.parquet:read",
        ".tfrecord": "modelwright.data.tables.tfrecord:read",
        ".tfrecords": "modelwright.data.tables.tfrecord:read",
        ".tar": "modelwright.data.media.tar_shards:read",
        ".arrow": "modelwright.data.tables.hugging_face:read",
    },
)


def records(path: Path) -> Iterator[Record]:
    """The rows of one file, streamed.

    Its name ends in ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.parquet``, ``.arrow``, ``.tfrecord`` or
    ``.tar`` (webdataset); ``.gz`` may follow a text kind or ``.tfrecord``. Values of CSV are texts, those of other
    kinds have the types of the file.

    Raises:
        ModelwrightError: the file is missing, of another kind, damaged, or a row is malformed; names the place
            as ``FILE:LINE``.
        MissingExtra: Parquet needs an optional part.
    """
    return (record for _, record in placed(path))


def placed(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place such as ``FILE:LINE`` and the row that stands there, streamed.

    Raises:
        ModelwrightError: as :func:`records`.
    """
    kind = kind_of(path)
    if kind not in READERS.listing:
        raise ModelwrightError(
            f"'{path.name}' is of no kind that is read by rows",
            where=str(path),
            remedy=f"its name must end in {', '.join(READERS.listing)}; pack none but texts with .gz",
        )
    return READERS.resolve(kind)(path)  # type: ignore[no-any-return]


def kind_of(path: Path) -> str:
    """The ending of a file's name, in small letters and without ``.gz``: ``.csv``."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def find_files(patterns: Sequence[str], where: str = "files", root: str = ".") -> list[Path]:
    """The files that match patterns such as ``tables/**/*.csv``, each once, in the order of their paths.

    Args:
        patterns: globs; ``**`` stands for any folders.
        where: the field that errors name.
        root: the folder that patterns start from.

    Raises:
        ModelwrightError: there is no pattern, or one matches no file.
    """
    if not patterns:
        raise ModelwrightError("no files are named", where=where, remedy=f"{where}: ['folder/*.csv']")
    return sorted({path for pattern in patterns for path in _matches(pattern, where, root)})


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 text, from 1, with their ends; unpacked where the name ends in ``.gz``.

    Raises:
        ModelwrightError: the file cannot be read, or a line is not UTF-8.
    """
    for number, line in enumerate(_raw_lines(path), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise malformed(
                path, number, f"byte {line[error.start]:#04x} is no UTF-8 text", "save the file as UTF-8"
            ) from error


def malformed(
    path: Path, line: int | str, what: str, remedy: str = "mend the line, or take it out"
) -> ModelwrightError:
    """An error that names a row by its place."""
    return ModelwrightError(f"a row cannot be read: {what}", where=f"{path}:{line}", remedy=remedy)


def unreadable(path: Path, what: str, remedy: str = "write the file again") -> ModelwrightError:
    """An error that names a whole file."""
    return ModelwrightError(f"the file cannot be read: {what}", where=str(path), remedy=remedy)


def missing_or_refused(path: Path, error: OSError) -> ModelwrightError:
    """The operating system's refusal, with its remedy."""
    return unreadable(path, error.strerror or str(error), "name an existing file that you may read")


def _raw_lines(path: Path) -> Iterator[bytes]:
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable(path, f"it is no gzip file, or it is cut short ({error})") from error
    except OSError as error:
        raise missing_or_refused(path, error) from error


def _matches(pattern: str, where: str, root: str) -> list[Path]:
    names = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - Path.glob takes hidden files too
    files = [Path(root) / name for name in names if (Path(root) / name).is_file()]
    if not files:
        raise ModelwrightError(
            f"no file matches '{pattern}' in {Path(root).resolve()}",
            where=where,
            remedy="mend the pattern; ** stands for any folders",
        )
    return files
