from __future__ import annotations

import math
from pathlib import Path

from modelwright.base.events import Event, emit, listening
from modelwright.runs import EventLog, follow_events, read_events


def test_events_are_kept_with_time_and_rank(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    logs = [EventLog(path, rank=rank) for rank in (0, 1)]
    for log in logs:
        with listening(log):
            emit("step-masked", "left out", level="warning", step=3, loss=math.nan, place=Path("x"))
        log.close()
    events = read_events(path)
    assert [event.rank for event in events] == [0, 1]
    assert events[0].kind == "step-masked" and events[0].level == "warning" and events[0].message == "left out"
    assert events[0].details == {"step": 3, "loss": "nan", "place": "x"}
    assert events[0].time.endswith("+00:00")
    assert read_events(tmp_path / "none") == []


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"time": "2026')
    log = EventLog(path)
    log(Event(kind="a", message="b"))
    log.close()
    told: list[Event] = []
    with listening(told.append):
        assert [event.kind for event in read_events(path)] == ["a"]
    assert [event.kind for event in told] == ["lines-unreadable"]


def test_an_event_that_cannot_be_written_does_not_raise(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.close()
    log(Event(kind="a", message="b"))
    assert read_events(tmp_path / "events.jsonl") == []


def test_following_reads_only_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = follow_events(path)
    assert tail.poll() == []
    log = EventLog(path)
    log(Event(kind="a", message="first"))
    assert [event.message for event in tail.poll()] == ["first"]
    log(Event(kind="a", message="second"))
    content = path.read_bytes()
    path.write_bytes(b" " * content.index(b"\n") + content[content.index(b"\n") :])  # what was read does not matter
    assert [event.message for event in tail.poll()] == ["second"]
    assert tail.poll() == []
    log.close()
