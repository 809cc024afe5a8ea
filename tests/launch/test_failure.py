from __future__ import annotations

import signal
from pathlib import Path

import pytest

from modelwright.launch.failure import Death, culprit, last_lines
from modelwright.launch.rank import is_victim
from modelwright.launch.warm import Exit


def died(rank: int, at: float, *, number: int | None = None, victim: bool | None = None) -> Death:
    report = None if victim is None else {"victim": victim, "at": at}
    return Death(rank=rank, exit=Exit(None if number else 1, number, at), report=report)


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        ([died(0, 1.0, victim=False), died(1, 2.0, victim=False)], 0),
        ([died(0, 1.0, victim=True), died(1, 2.0, victim=False)], 1),
        ([died(0, 1.0, victim=True), died(1, 1.5, number=signal.SIGSEGV)], 1),
        ([died(0, 2.0, victim=True), died(1, 1.0, victim=True)], 1),
        ([died(0, 1.0, victim=False), died(1, 1.2, number=signal.SIGKILL)], 1),
        ([died(0, 1.0, victim=False), died(1, 1.2, number=signal.SIGABRT)], 0),
        ([died(0, 1.0), died(1, 0.5)], 1),
    ],
)
def test_the_culprit_is_the_first_that_really_failed(deaths: list[Death], expected: int) -> None:
    assert culprit(deaths).rank == expected


def chained(first: Exception, second: Exception) -> Exception:
    try:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904 - without a cause, as user code does it
    except Exception as error:
        return error


def lost_peer() -> Exception:
    return RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:4711")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lost_peer(), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (chained(lost_peer(), ValueError("cannot save")), True),
        (chained(ValueError("a bug"), lost_peer()), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (RuntimeError("CUDA out of memory"), False),
        (FileNotFoundError(2, "No such file", "data.bin"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_victims_are_known_by_the_first_exception_of_the_chain(error: Exception, expected: bool) -> None:
    assert is_victim(error) is expected


@pytest.mark.parametrize("length", [1, 2])
def test_a_circle_of_exceptions_ends(length: int) -> None:
    circle = [ValueError(str(number)) for number in range(length)]
    for one, following in zip(circle, [*circle[1:], circle[0]], strict=True):
        one.__cause__ = following
    assert not is_victim(circle[0])


def test_last_lines_are_of_the_latest_attempt(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.txt"
    old = "".join(f"old {line}\n" for line in range(9000))
    log.write_text(f"--- attempt 0, x\n{old}--- attempt 1, x\nnew 1\nnew 2\n")
    assert last_lines(log) == ("new 1", "new 2")
    log.write_text(f"--- attempt 0, x\n{old}")
    assert last_lines(log) == tuple(f"old {line}" for line in range(8985, 9000))
    assert last_lines(tmp_path / "none") == ()
