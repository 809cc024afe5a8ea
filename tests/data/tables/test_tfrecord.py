from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import tabular
from tests.data.tabular import example, field, framed, varint

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.tables.records import placed, records
from modelwright.data.tables.tf_example import parse
from modelwright.data.tables.tfrecord import TfRecord, frames

ROW = {"a": 1.5, "b": -3, "c": "é", "d": [1.0, 2.0], "e": [2**62, -(2**63)], "f": ["x", "y"]}


def test_examples_assembled_by_hand_come_back(tmp_path: Path) -> None:
    path = tabular.write_tfrecord(tmp_path / "t.tfrecord", [ROW, {"a": 0.25}])
    size = len(framed(example(ROW)))
    assert list(placed(path)) == [(f"{path}:byte 0", ROW), (f"{path}:byte {size}", {"a": 0.25})]
    assert list(records(tabular.write_tfrecord(tmp_path / "t.tfrecord.gz", [ROW]))) == [ROW]


def test_unpacked_lists_unknown_fields_and_odd_bytes() -> None:
    floats = b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in (1.0, 2.0))
    integers = b"".join(varint(1 << 3) + varint(value) for value in (7, -1))
    entries = {"f": field(2, floats), "i": field(3, integers), "b": field(1, field(1, b"\xff")), "n": field(2, b"")}
    features = b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in entries.items())
    unknown = varint(9 << 3) + varint(5) + varint(8 << 3 | 1) + bytes(8)
    found = parse(unknown + field(1, features) + field(12, b"later"))
    assert found == {"f": [1.0, 2.0], "i": [7, -1], "b": b"\xff", "n": None}


def test_google_s_own_protocol_buffers_agree() -> None:
    make = pytest.importorskip("google.protobuf.message_factory")
    row = make.GetMessageClass(_example_descriptor())()
    row.features.feature["a"].float_list.value.extend([1.5, -2.0])
    row.features.feature["b"].int64_list.value.append(-7)
    row.features.feature["c"].bytes_list.value.extend([b"x", b""])
    assert parse(row.SerializeToString()) == {"a": [1.5, -2.0], "b": -7, "c": ["x", ""]}
    row.ParseFromString(example({"a": [0.5, 1.5], "b": -7, "c": "x"}))  # the writer of these tests agrees too
    assert list(row.features.feature["a"].float_list.value) == [0.5, 1.5]
    assert list(row.features.feature["b"].int64_list.value) == [-7]


def test_tensorboard_s_writer_agrees(tmp_path: Path) -> None:
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    data = [b"", b"short", bytes(range(256)) * 20]
    with (tmp_path / "t.tfrecord").open("wb") as file:
        writer = record_writer.RecordWriter(file)
        for record in data:
            writer.write(record)
        writer.flush()
    assert [record for _, record in frames(tmp_path / "t.tfrecord")] == data
    assert (tmp_path / "t.tfrecord").read_bytes() == b"".join(map(framed, data))


def test_every_cut_and_every_flipped_byte_is_found(tmp_path: Path) -> None:
    one, two = framed(example({"a": 1.0})), framed(example({"a": 2.0}))
    path = tmp_path / "t.tfrecord"
    for place in range(len(two)):
        path.write_bytes(one + two[:place])
        if place == 0:
            assert len(list(frames(path))) == 1
        else:
            _refused_at(path, len(one), "is cut short")
        changed = bytearray(two)
        changed[place] ^= 1
        path.write_bytes(one + changed)
        _refused_at(path, len(one), "corrupt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tfrecord").write_bytes(b"a text, and no record at all")
    _refused_at(tmp_path / "t.tfrecord", 0, "no TFRecord")
    (tmp_path / "t.tfrecord").write_bytes(framed(b"\xff\xff no example"))
    with pytest.raises(ModelwrightError, match=r"no tf.train.Example") as caught:
        list(records(tmp_path / "t.tfrecord"))
    assert caught.value.where == f"{tmp_path / 't.tfrecord'}:byte 0"
    packed = gzip.compress(framed(b"") * 500)
    (tmp_path / "t.tfrecord.gz").write_bytes(packed[:-12])
    with pytest.raises(ModelwrightError, match="cut short"):
        list(records(tmp_path / "t.tfrecord.gz"))


def test_a_table_is_learnt_from(tmp_path: Path) -> None:
    rows = [row | {"pair": [float(number), 1.0]} for number, row in enumerate(tabular.iris())]
    path = tabular.write_tfrecord(tmp_path / "t.tfrecord", rows)
    data = TfRecord(files=(str(path),), target="target", features=("pair",), standardise=False, held_out=0.0)
    splits = data.open(data.prepare(tmp_path / "cache"))
    batch = read(splits.train, np.arange(150))
    assert splits.facts == {"features": 2, "classes": 3}
    assert batch["inputs"].tolist() == [row["pair"] for row in rows]
    assert batch["targets"].tolist() == [["setosa", "versicolor", "virginica"].index(row["target"]) for row in rows]


def _refused_at(path: Path, offset: int, what: str) -> None:
    with pytest.raises(ModelwrightError, match=what) as caught:
        list(frames(path))
    assert caught.value.where == f"{path}:byte {offset}"


def _example_descriptor() -> Any:
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    descriptor_pool = pytest.importorskip("google.protobuf.descriptor_pool")
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for field_name, number, label, type_, type_name in fields:
            made.field.add(name=field_name, number=number, label=label, type=type_, type_name=type_name or None)
        return made

    many, one = kind.LABEL_REPEATED, kind.LABEL_OPTIONAL
    message("BytesList", ("value", 1, many, kind.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, many, kind.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, many, kind.TYPE_INT64, ""))
    lists = [("bytes_list", ".t.BytesList"), ("float_list", ".t.FloatList"), ("int64_list", ".t.Int64List")]
    numbered = enumerate(lists, start=1)
    feature = message("Feature", *((name, n, one, kind.TYPE_MESSAGE, type_) for n, (name, type_) in numbered))
    feature.oneof_decl.add(name="kind")
    for made in feature.field:
        made.oneof_index = 0
    features = message("Features", ("feature", 1, many, kind.TYPE_MESSAGE, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=kind.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=kind.TYPE_MESSAGE, type_name=".t.Feature")
    message("Example", ("features", 1, one, kind.TYPE_MESSAGE, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("t.Example")
