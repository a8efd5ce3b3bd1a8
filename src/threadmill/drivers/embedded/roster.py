"""The owners of one embedded PostgreSQL, as its supervisor sees them.

An owner is a connection. It ends when the owner closes it or dies. A child that the
owner forked may keep the connection open for longer than its parent lives, so where
the system can tell (Linux) the owner's process is watched too.

What is promised: `Roster` never counts an owner whose process is gone, and each owner
gets the supervisor's answer exactly once, whether it came before or after it.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that needs the server: its connection, and a handle on the process."""

    connection: socket.socket
    process: int | None

    def is_gone(self) -> bool:
        """Return whether the owner closed its end or died."""
        if self.process is not None and select.select([self.process], [], [], 0)[0]:
            return True
        try:
            return self.connection.recv(1024) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Give back the connection and the handle."""
        self.connection.close()
        if self.process is not None:
            os.close(self.process)


class Roster:
    """Counts the owners, and tells each of them the supervisor's answer.

    Args:
        selector: where the owners' signs of life are waited for; the key's data is
            the `Owner`.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._owners: list[Owner] = []
        self._departed: list[Owner] = []
        self._answer = b""

    def __len__(self) -> int:
        """Return how many owners there are."""
        return len(self._owners)

    def add(self, connection: socket.socket) -> None:
        """Count one more owner, unless its process is gone already."""
        connection.settimeout(0)
        try:
            process = _watch_peer(connection)
        except ProcessLookupError:
            connection.close()
            return
        owner = Owner(connection, process)
        self._owners.append(owner)
        self._close_departed()
        self._selector.register(connection, selectors.EVENT_READ, owner)
        if process is not None:
            self._selector.register(process, selectors.EVENT_READ, owner)
        self._tell(owner)

    def look_at(self, owner: Owner) -> None:
        """Strike out an owner that is gone.

        Its connection closes when it is known that others keep the server. The last
        one's stays open until `close`, for its process waits for the server's end.
        """
        if owner not in self._owners or not owner.is_gone():
            return
        self._owners.remove(owner)
        self._departed.append(owner)
        self._selector.unregister(owner.connection)
        if owner.process is not None:
            self._selector.unregister(owner.process)
        if self._owners:
            self._close_departed()

    def tell_all(self, answer: dict[str, object]) -> None:
        """Send `answer` to every owner, now or when it comes."""
        self._answer = json.dumps(answer).encode() + b"\n"
        for owner in self._owners:
            self._tell(owner)

    def close(self) -> None:
        """Close every connection, which tells the owners that the server is gone."""
        self._departed += self._owners
        self._owners.clear()
        self._close_departed()

    def _tell(self, owner: Owner) -> None:
        # One short line into an empty buffer never blocks; the owner may be dead.
        with suppress(OSError):
            owner.connection.send(self._answer)

    def _close_departed(self) -> None:
        while self._departed:
            self._departed.pop().close()


def _watch_peer(connection: socket.socket) -> int | None:
    """Return a handle on the process at the other end, where the system has such.

    Raises:
        ProcessLookupError: when that process is gone.
    """
    if sys.platform != "linux":
        return None
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack("3i", credentials)[0]
    if pid <= 0:
        # The owner lives in another container that shares the folder.
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        # Refused by an old kernel or a container's rules: the connection must do.
        return None
