from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.runs import MetricsWriter, follow, read_metrics, truncate_after
from modelwright.runs.plain import number, plain


def write(path: Path, *steps: int) -> None:
    with MetricsWriter(path) as writer:
        for step in steps:
            writer.write({"kind": "step", "step": step, "loss": 1 / (step + 1)})


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"kind": "step", "step": 0, "loss": 0.1 + 0.2, "masked": False},
        {"kind": "evaluation", "step": 0, "a": None},
    ]
    with MetricsWriter(path) as writer:
        for row in rows:
            writer.write(row)
    assert read_metrics(path) == rows
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_since_leaves_earlier_steps_out(tmp_path: Path) -> None:
    write(tmp_path / "m", 0, 1, 2, 3)
    assert [row["step"] for row in read_metrics(tmp_path / "m", since=2)] == [2, 3]


def test_non_finite_numbers_stay_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with MetricsWriter(path) as writer:
        writer.write({"kind": "step", "step": 1, "a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(word: str) -> float:
        raise AssertionError(word)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    (row,) = read_metrics(path)
    assert math.isnan(row["a"]) and (row["b"], row["c"]) == (math.inf, -math.inf)


@given(st.floats())
def test_every_float_survives(value: float) -> None:
    back = number(json.loads(json.dumps(plain(value), allow_nan=False)))
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_a_torn_last_line_is_not_read_and_cut_on_reopening(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, 1, 2)
    whole = path.read_bytes()
    for torn in (b'{"kind": "st', b'{"kind": "step", "step": 3}', b"\xff\x00"):
        path.write_bytes(whole + torn)
        assert [row["step"] for row in read_metrics(path)] == [1, 2]
        told: list[Event] = []
        with listening(told.append):
            write(path, 3)
        assert [event.kind for event in told] == ["line-torn"]
        assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
        path.write_bytes(whole)


def test_a_file_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x" * 200_000)
    with listening(lambda event: None):
        write(path, 1)
    assert [row["step"] for row in read_metrics(path)] == [1]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, 1, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\n[1]\n" + lines[1])
    told: list[Event] = []
    with listening(told.append):
        assert [row["step"] for row in read_metrics(path)] == [1, 2]
    assert [(event.kind, event.details["lines"]) for event in told] == [("lines-unreadable", 2)]


def test_rows_reach_the_file_in_time_without_further_writes(tmp_path: Path) -> None:
    path = tmp_path / "m"
    writer = MetricsWriter(path, flush_seconds=1.0)
    writer.write({"step": 1})
    assert path.read_bytes() == b""  # buffered
    deadline = time.monotonic() + 20
    while not read_metrics(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_metrics(path) == [{"step": 1}]
    writer.write({"step": 2})
    writer.close()
    writer.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to("/dev/full")
    writer = MetricsWriter(tmp_path / "m", flush_seconds=60)
    writer.write({"step": 1})
    with pytest.raises(ModelwrightError, match="disk is full"):
        writer.close()


def test_following_sees_each_row_once_and_no_half(tmp_path: Path) -> None:
    path = tmp_path / "m"
    tail = follow(path)
    assert tail.poll() == []
    write(path, 1, 2)
    assert [row["step"] for row in tail.poll()] == [1, 2]
    with path.open("ab") as file:
        file.write(b'{"step"')
        file.flush()
        assert tail.poll() == []
        file.write(b": 3}\n")
    assert tail.poll() == [{"step": 3}]
    assert tail.poll() == [] and tail.rewritten == 0


def test_following_notices_a_rewritten_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, 1, 2, 3)
    tail = follow(path)
    tail.poll()
    assert truncate_after(path, 2) == 1
    write(path, 3, 4)
    assert [row["step"] for row in tail.poll()] == [1, 2, 3, 4]
    assert tail.rewritten == 1


def test_truncating_keeps_what_the_checkpoint_has_seen(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with MetricsWriter(path) as writer:
        for step in range(5):
            writer.write({"kind": "step", "step": step, "loss": math.nan})
        writer.write({"kind": "note"})
    assert truncate_after(path, 2) == 2
    rows = read_metrics(path)
    assert [row.get("step") for row in rows] == [0, 1, 2, None]
    assert math.isnan(rows[0]["loss"])
    assert truncate_after(tmp_path / "none", 2) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


_WRITING = """
import sys
from pathlib import Path
from modelwright.runs import MetricsWriter
writer = MetricsWriter(Path(sys.argv[1]), flush_seconds=0.0)
step = int(sys.argv[2])
while True:
    step += 1
    writer.write({"kind": "step", "step": step, "padding": "x" * 3000})
    print(step, flush=True) if step == int(sys.argv[2]) + 1 else None
"""


def test_kills_lose_no_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "m"
    last = 0
    for _ in range(3):
        command = [sys.executable, "-c", _WRITING, str(path), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
        steps = [row["step"] for row in read_metrics(path)]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > last
        last = len(steps)
