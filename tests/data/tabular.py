"""Tables as files of every kind, made of scikit-learn's bundled sets, and TFRecords assembled by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import ipc, parquet
from sklearn.datasets import load_diabetes, load_iris, load_wine

from modelwright.data.media.webdataset import WebDataset
from modelwright.data.tables.csv_files import Csv
from modelwright.data.tables.hugging_face import HuggingFace
from modelwright.data.tables.jsonl import Jsonl
from modelwright.data.tables.parquet import Parquet
from modelwright.data.tables.tfrecord import TfRecord
from modelwright.data.texts.text_records import TextRecords
from modelwright.data.tokenizers.byte import Byte

Row = dict[str, Any]


def wine() -> list[Row]:
    """13 numbers and the name of a class."""
    return _rows(load_wine(), lambda data, target: str(data.target_names[target]))


def iris() -> list[Row]:
    """4 numbers and the name of a class."""
    return _rows(load_iris(), lambda data, target: str(data.target_names[target]))


def diabetes() -> list[Row]:
    """10 numbers, of which ``sex`` has two values, and a quantity."""
    return _rows(load_diabetes(), lambda data, target: float(target))


def write_csv(path: Path, rows: Sequence[Row], separator: str = ",") -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_jsonl(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)
    return path


def write_arrow_folder(folder: Path, rows: Sequence[Row], shards: int = 2) -> Path:
    """What ``datasets.save_to_disk`` writes, as far as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        table = pyarrow.Table.from_pylist(rows[shard::shards])
        with ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=20)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}), "utf-8")
    (folder / "dataset_info.json").write_text('{"features": {}}', "utf-8")
    return folder


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


def npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def write_tfrecord(path: Path, rows: Iterable[Row]) -> Path:
    data = b"".join(framed(example(row)) for row in rows)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def framed(data: bytes) -> bytes:
    """A record as the format's documentation has it, its sums made bit by bit."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_bitwise(length)) + data + struct.pack("<I", masked_bitwise(data))


def masked_bitwise(data: bytes) -> int:
    value = crc32c_bitwise(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c_bitwise(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def example(row: Mapping[str, Any]) -> bytes:
    """A ``tf.train.Example``: floats as FloatList, integers as Int64List, texts as BytesList."""
    entries = (field(1, name.encode()) + field(2, _feature(value)) for name, value in row.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _feature(value: Any) -> bytes:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str):
        return field(1, b"".join(field(1, text.encode()) for text in values))
    if isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(varint, values))))


def _rows(data: Any, name: Callable[[Any, Any], Any]) -> list[Row]:
    names = [str(column) for column in data.feature_names]
    return [
        dict(zip(names, map(float, values), strict=True)) | {"target": name(data, target)}
        for values, target in zip(data.data, data.target, strict=True)
    ]


def _csv(folder: Path) -> Csv:
    return Csv(files=(str(write_csv(folder / "wine.csv", wine())),), target="target")


def _jsonl(folder: Path) -> Jsonl:
    return Jsonl(files=(str(write_jsonl(folder / "diabetes.jsonl", diabetes())),), target="target")


def _parquet(folder: Path) -> Parquet:
    rows = [row | {"missing": None if number % 7 == 0 else float(number)} for number, row in enumerate(wine())]
    return Parquet(files=(str(write_parquet(folder / "wine.parquet", rows)),), target="target", missing="mean")


def _hugging_face(folder: Path) -> HuggingFace:
    write_arrow_folder(folder / "iris", iris())
    return HuggingFace(folder=str(folder / "iris"), target="target", held_out=0.3)


def _tfrecord(folder: Path) -> TfRecord:
    rows = [row | {"pair": [float(number), 1.0]} for number, row in enumerate(iris())]
    return TfRecord(files=(str(write_tfrecord(folder / "iris.tfrecord", rows)),), target="target")


def _webdataset(folder: Path) -> WebDataset:
    members: dict[str, bytes] = {}
    for number, row in enumerate(iris()):
        members[f"{number:04}.npy"] = npy(np.array([row[name] for name in row if name != "target"]))
        members[f"{number:04}.txt"] = row["target"].encode()
    write_tar(folder / "iris.tar", members)
    return WebDataset(files=(str(folder / "iris.tar"),), inputs=("npy",), targets="txt")


def _text_records(folder: Path) -> TextRecords:
    random = np.random.default_rng(1)
    words = np.array(["red", "green", "blue", "deep", "sea", "sky", "stone", "wind"])
    write_jsonl(folder / "text.jsonl", ({"text": " ".join(random.choice(words, 200))} for _ in range(20)))
    return TextRecords(files=("text.jsonl",), root=str(folder), context=16, held_out=0.2, tokenizer=Byte())


EXAMPLES: dict[str, Callable[[Path], Any]] = {
    "csv": cache(_csv),
    "jsonl": cache(_jsonl),
    "parquet": cache(_parquet),
    "hugging-face": cache(_hugging_face),
    "tfrecord": cache(_tfrecord),
    "webdataset": cache(_webdataset),
    "text-records": cache(_text_records),
}
