"""JSON values, one a line, over a socket: how a command and its warm parent speak."""

from __future__ import annotations

import json
import socket
from typing import Any


class Channel:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pending = b""

    def fileno(self) -> int:
        """The descriptor, for ``select``."""
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> bool:
        """Send one message; ``False`` where the other end has gone."""
        try:
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come, possibly none yet; ``None`` where the other end has gone."""
        try:
            received = self._end.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            return None
        *lines, self._pending = (self._pending + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end; the other one notices."""
        self._end.close()
