"""What the ranks of these tests run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from modelwright.base.errors import ModelwrightError, RunFailed


def main(arguments: list[str]) -> None:
    (Path(arguments[0]) / f"main-{os.environ['RANK']}.json").write_text(
        json.dumps({"arguments": arguments, "environment": dict(os.environ), "pid": os.getpid()})
    )


def speak(arguments: list[str]) -> None:
    sys.stdout.write(f"rank {os.environ['RANK']} says {arguments}\n")


def sleep(arguments: list[str]) -> None:
    sys.stdout.write("about to sleep\n")
    time.sleep(60)


def sleep_with_child(arguments: list[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sys.stdout.write(f"child {child.pid}\n")
    time.sleep(60)


def leave(arguments: list[str]) -> None:
    if os.environ["RANK"] == arguments[0]:
        sys.exit(int(arguments[1]))
    time.sleep(60)


def signal_itself(arguments: list[str]) -> None:
    sys.stdout.write("last words\n")
    os.kill(os.getpid(), int(arguments[0]))


def mistake(arguments: list[str]) -> None:
    if os.environ["RANK"] == "1":
        raise ModelwrightError("the rate is negative", where="recipe.yaml:3", remedy="make it positive")
    time.sleep(60)


def give_up(arguments: list[str]) -> None:
    raise RunFailed("the loss diverged")


def bug(arguments: list[str]) -> None:
    raise KeyError("oops")


def victim_first(arguments: list[str]) -> None:
    """Rank 0 tells of a lost peer 0.3 s before rank 1 comes to tell of its own bug."""
    if os.environ["RANK"] == "0":
        raise RuntimeError("[pair.cc:544] Connection closed by peer [127.0.0.1]:40000")
    time.sleep(0.3)
    raise ValueError("the bug itself")


def save_and_leave(arguments: list[str]) -> None:
    def save(number: int, frame: FrameType | None) -> None:
        (Path(arguments[0]) / f"saved-{os.environ['RANK']}").touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    sys.stdout.write("ready\n")
    time.sleep(60)


def deaf(arguments: list[str]) -> None:
    """Rank 0 fails, while rank 1 does not hear SIGTERM."""
    if os.environ["RANK"] == "1":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (Path(arguments[0]) / "deaf").touch()
        time.sleep(60)
    while not (Path(arguments[0]) / "deaf").exists():
        time.sleep(0.01)
    sys.exit(5)
