from __future__ import annotations

import logging
import threading

import pytest

from modelwright.base.events import Event, emit, listening


def test_every_listener_hears_and_only_inside_its_block() -> None:
    outer: list[Event] = []
    inner: list[Event] = []
    with listening(outer.append):
        with listening(inner.append):
            emit("a", "first", level="warning", step=3)
        emit("b", "second")
    assert [event.kind for event in outer] == ["a", "b"]
    assert inner == [Event(kind="a", message="first", level="warning", details={"step": 3})]


def test_other_threads_are_heard_too() -> None:
    heard: list[Event] = []
    with listening(heard.append):
        thread = threading.Thread(target=emit, args=("a", "from elsewhere"))
        thread.start()
        thread.join()
    assert [event.message for event in heard] == ["from elsewhere"]


def test_with_nobody_listening_an_event_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="modelwright"):
        emit("a", "alone", level="warning")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "a: alone")]
