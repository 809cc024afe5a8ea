"""What one rank runs: the entry, its errors written where the parent finds them.

``python -m modelwright.launch.rank ENTRY ARGUMENTS...`` in an environment made by :mod:`.environment`.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from modelwright.base import phases
from modelwright.base.choice import import_path
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import write_json
from modelwright.base.phases import Phase
from modelwright.launch import pulse
from modelwright.launch.logs import report_path

# What a rank says when another one has gone: it is a victim, and must not hide the culprit.
_COLLECTIVE = re.compile(
    r"gloo|nccl|closed by (remote )?peer|connection (reset|refused|closed)|broken pipe"
    r"|process ?group|store.*(timeout|timed out)|(timeout|timed out).*(store|peer|rank)",
    re.IGNORECASE,
)


def run(entry: str, arguments: list[str]) -> int:
    """Call the entry with its arguments and return the exit code.

    Traceback and report are written for whatever it raises: 1 for an exception nobody expected, the error's
    own code for a :class:`ModelwrightError`.
    """
    if logs := os.environ.get("MODELWRIGHT_LOGS"):
        pulse.begin(Path(logs), int(os.environ.get("RANK", "0")))
    try:
        import_path(entry if ":" in entry else f"{entry}:main")(arguments)
    except ModelwrightError as error:
        _report(error, told=True, **error.to_json())
        _log(error)
        return error.exit_code
    except SystemExit as leaving:
        return _code(leaving)
    except (Exception, KeyboardInterrupt) as error:
        _report(error, told=False, what=_one_line(error), where=_place(error), remedy="")
        traceback.print_exc()
        return 1
    phases.enter(Phase.ENDED)
    return 0


def main() -> int:
    """The process itself: output by lines, the command's import path, then the entry."""
    by_lines()
    sys.path[:] = os.environ.pop("MODELWRIGHT_PATH", os.pathsep.join(sys.path)).split(os.pathsep)
    return run(sys.argv[1], sys.argv[2:])


def by_lines() -> None:
    """Write output to the log line by line, so that the last words of a killed rank are there."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def leave(code: int) -> NoReturn:
    """End a forked rank as an interpreter does, without taking apart all that was imported: a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads, as multiprocessing does it
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def is_victim(error: BaseException) -> bool:
    """Whether an exception only tells that another rank has gone: the first in its chain decides."""
    seen = {id(error)}
    while (earlier := _earlier(error)) is not None and id(earlier) not in seen:
        error = earlier
        seen.add(id(error))
    if type(error).__module__.startswith("torch.distributed"):
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_COLLECTIVE.search(str(error)))


def _earlier(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _report(error: BaseException, **fields: object) -> None:
    report = {
        **fields,
        "type": type(error).__name__,
        "exit_code": getattr(error, "exit_code", 1),
        "victim": is_victim(error),
        "at": time.monotonic(),
    }
    path = report_path(Path(os.environ.get("MODELWRIGHT_LOGS", ".")), int(os.environ.get("RANK", "0")))
    with suppress(ModelwrightError):  # a full disk must not hide the exception itself
        write_json(path, report)


def _code(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def _log(error: ModelwrightError) -> None:
    if error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    sys.stderr.write(f"{error}\n")


def _one_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


if __name__ == "__main__":
    sys.exit(main())
