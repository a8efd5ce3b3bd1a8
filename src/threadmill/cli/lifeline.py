"""The line between `dev` and the process that serves for it.

It is a pair of sockets, so either side sees the other's end whatever its cause. The
parent first hands over the database's URI, which has no place in the environment of the
users' code. The child says when it is ready; the parent asks it to stop. A line that
breaks without a word means that the parent was killed: the child ends at once, because
its database is going away as well.

A terminal's Ctrl-C reaches both processes; the child leaves it to the parent.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

_STOP: Final = b"s"
_END_OF_LINE: Final = b"\n"
_ORPHANED: Final = 1


class ChildEnd:
    """The child's end; until `on_stop` is set, being asked to stop ends the process.

    `database_uri` is what the parent handed over.

    Args:
        descriptor: of the socket that was inherited.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = inherited(descriptor)
        self.database_uri = self._received_uri()
        self.on_stop: Callable[[], None] | None = None
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def _received_uri(self) -> str:
        text = b""
        while not text.endswith(_END_OF_LINE):
            more = self._socket.recv(1)
            if not more:
                os._exit(_ORPHANED)
            text += more
        return text.decode().rstrip()

    def ready(self, news: Mapping[str, Any]) -> None:
        """Tells the parent that requests are answered."""
        with suppress(OSError):
            self._socket.sendall(json.dumps(news).encode() + _END_OF_LINE)

    def _listen(self) -> None:
        word = b""
        with suppress(OSError):
            word = self._socket.recv(1)
        if word != _STOP:
            os._exit(_ORPHANED)
        if self.on_stop is None:
            os._exit(0)
        self.on_stop()


def inherited(descriptor: int) -> socket.socket:
    """The socket that the parent passed on; what this process starts gets it not."""
    ours = socket.socket(fileno=os.dup(descriptor))
    os.close(descriptor)
    return ours


def hand_over(parents_end: socket.socket, database_uri: str) -> None:
    """The parent's first word; short enough for the socket's buffer."""
    with suppress(OSError):
        parents_end.sendall(database_uri.encode() + _END_OF_LINE)


def ask_to_stop(parents_end: socket.socket) -> None:
    """The parent's word; the child may be gone already."""
    with suppress(OSError):
        parents_end.sendall(_STOP)
