"""A process that reads for a training: ``python -m modelwright.data.reading.reader DESCRIPTOR``.

A fresh interpreter, started by :class:`~modelwright.data.reading.readers.Readers`. It receives a share through its
standard input, and sends every so many-th step through the descriptor: a full pipe makes it wait. It leaves when its
input ends, so also when the training is killed.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data.reading.sending import Gone, receive, send, send_batch
from modelwright.data.reading.share import Share


def main() -> None:
    """Receive, read and send until the last step, or until the training has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends its readers
    torch.set_num_threads(1)
    source, sink = sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb")
    with suppress(Gone):
        try:
            _serve(source, sink)
        except ModelwrightError as error:
            send(sink, {"error": error.to_json()})


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    share = _share(source)
    send(sink, {"ready": True})
    first, stride = receive(source)["steps"]
    threading.Thread(target=_leave_with, args=(source,), daemon=True).start()
    for number in range(first, share.steps, stride):
        (indices,) = share.indices(number, 1)
        send_batch(sink, indices, share.whole([indices], number))


def _share(source: BinaryIO) -> Share:
    sys.path[:] = json.loads(source.readline())
    try:
        share: Any = pickle.load(source)  # noqa: S301 - from the process that started this one, through its pipe
    except Exception as error:
        raise ModelwrightError(
            f"the data set did not arrive in the process that is to read it: {type(error).__name__}: {error}",
            remedy="define its class in a module of its own, not in the script that is started, or set workers=0",
        ) from error
    return share  # type: ignore[no-any-return]


def _leave_with(source: BinaryIO) -> None:
    source.read()
    os._exit(0)


if __name__ == "__main__":
    main()
