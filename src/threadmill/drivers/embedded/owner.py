"""`EmbeddedPostgres`: what a process that needs the embedded database uses.

The calls block, for well under a second on data that exists: they belong before the
event loop or into ``asyncio.to_thread``. Nothing here runs PostgreSQL; that is the
supervisor's work, so an owner may fork, use threads and be killed as it likes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from threadmill.drivers.embedded.layout import Layout, default_data_dir, locked
from threadmill.errors import SetupError

_SUPERVISOR = "threadmill.drivers.embedded.supervisor"

# A supervisor that is about to stop lets nobody in; the next try starts another.
_ATTEMPTS_MAX = 5

# Longer than the supervisor takes in the worst case to stop the server.
_STOP_TIMEOUT_SECONDS = 60.0


class EmbeddedPostgres:
    """A PostgreSQL that runs while somebody needs it.

    All objects with one `data_dir`, in any number of processes, share one server. It
    stops after the last of them called `stop` or died, whatever the cause and order.
    The server and its data survive every other death, and a server that ends by
    itself is started again under the same URI.

    Ownership belongs to the process that called `start`: a forked child does not
    prolong it, and ends it neither.

    Args:
        data_dir: folder for the data and the server's logs; None is the user's own
            (see `default_data_dir`). It is created when missing.
        fsync: False makes the server faster, at the price of the data when the
            operating system (not merely the server) crashes. Tests want that.
        settings: further PostgreSQL settings by name. Like `fsync` they hold for the
            owner that starts the server, and not for those that join it.
        start_timeout_seconds: the longest time that `start` takes.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
        start_timeout_seconds: float = 120.0,
    ) -> None:
        self._layout = Layout((data_dir or default_data_dir()).expanduser().absolute())
        self._fsync = fsync
        self._settings = dict(settings or {})
        self._start_timeout_seconds = start_timeout_seconds
        self._connection: socket.socket | None = None
        self._process: int = 0
        self._server: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Return the folder and state; the password is in no representation."""
        state = "started" if self._connection else "stopped"
        return f"<EmbeddedPostgres {self._layout.data_dir} {state}>"

    @property
    def data_dir(self) -> Path:
        """Return the folder with the data and logs."""
        return self._layout.data_dir

    @property
    def uri(self) -> str:
        """Return the superuser's URI over the Unix socket; it holds the password."""
        folder = quote(self._answer()["socket_folder"])
        return f"{self._login()}@/postgres?host={folder}&port={self._answer()['port']}"

    @property
    def tcp_uri(self) -> str:
        """Return the superuser's URI over loopback TCP; it holds the password."""
        return f"{self._login()}@127.0.0.1:{self._answer()['port']}/postgres"

    def start(self) -> str:
        """Start the server or join it, and return `uri`; a second call does nothing.

        Raises:
            SetupError: when it does not start; the message says what to do.
        """
        if self._connection is None:
            if sys.platform == "win32":
                raise SetupError(
                    "the embedded postgresql needs linux or macos; set DATABASE_URI "
                    "to a PostgreSQL server"
                )
            self._layout.create()
            self._connection, self._server = self._join()
            self._process = os.getpid()
        return self.uri

    def stop(self) -> None:
        """Give up the ownership; wait for the server's end if it was the last one.

        A second call does nothing, and neither does a call in a forked child.

        Raises:
            SetupError: when the server takes too long; it is stopping nevertheless.
        """
        if self._connection is None:
            return
        with self._connection as connection:
            self._connection = None
            if os.getpid() != self._process:
                return
            # A supervisor that is gone needs no word from us.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(_STOP_TIMEOUT_SECONDS)
            try:
                _read_line(connection)
            except TimeoutError:
                raise SetupError(
                    "the embedded postgresql did not stop within "
                    f"{_STOP_TIMEOUT_SECONDS:.0f} s; see {self._layout.server_log}"
                ) from None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up the ownership."""
        self.stop()

    def _answer(self) -> dict[str, Any]:
        if self._connection is None:
            raise SetupError("the embedded postgresql is not started; call start()")
        return self._server

    def _login(self) -> str:
        password = self._layout.password_file.read_text()
        return f"postgresql://{self._answer()['superuser']}:{quote(password)}"

    def _join(self) -> tuple[socket.socket, dict[str, Any]]:
        """Return a connection to a supervisor, and what it says about its server."""
        deadline = time.monotonic() + self._start_timeout_seconds
        for _ in range(_ATTEMPTS_MAX):
            connection = self._connect()
            if connection is None:
                remaining = max(0.0, deadline - time.monotonic())
                # One owner at a time: the others find its supervisor when they may.
                with locked(self._layout.start_lock, timeout_seconds=remaining):
                    connection = self._connect() or self._spawn_supervisor()
                    server = self._receive(connection, deadline)
            else:
                server = self._receive(connection, deadline)
            if server is not None:
                return connection, server
        raise SetupError(
            "the embedded postgresql's supervisor ended without an answer; see "
            f"{self._layout.supervisor_log}"
        )

    def _connect(self) -> socket.socket | None:
        """Return a connection to the running supervisor, or None without one."""
        running = self._layout.running()
        if running is None:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._start_timeout_seconds)
            connection.connect(str(running.control))
        except (FileNotFoundError, ConnectionError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection

    def _receive(
        self, connection: socket.socket, deadline: float
    ) -> dict[str, Any] | None:
        """Return the supervisor's answer, or None if it ended without one.

        Raises:
            SetupError: with the supervisor's error, or when it takes too long.
        """
        try:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            line = _read_line(connection)
        except TimeoutError:
            connection.close()
            raise SetupError(
                "the embedded postgresql did not start within "
                f"{self._start_timeout_seconds:.0f} s; see "
                f"{self._layout.supervisor_log} and {self._layout.server_log}"
            ) from None
        except BaseException:
            connection.close()
            raise
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "port" in answer:
            return answer
        connection.close()
        if "error" in answer:
            raise SetupError(answer["error"])
        return None

    def _spawn_supervisor(self) -> socket.socket:
        """Start a supervisor whose first owner is this process."""
        command = [sys.executable, "-P", "-m", _SUPERVISOR, str(self._layout.data_dir)]
        command += [] if self._fsync else ["--no-fsync"]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._layout.supervisor_log.open("ab") as log:
                # Its own session, so that Ctrl-C in a terminal is ours alone.
                subprocess.run(  # noqa: S603 - our own module, no shell
                    command,
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    check=True,
                    timeout=self._start_timeout_seconds,
                )
        except subprocess.SubprocessError:
            ours.close()
            raise SetupError(
                "the embedded postgresql's supervisor does not start; see "
                f"{self._layout.supervisor_log}"
            ) from None
        except BaseException:
            ours.close()
            raise
        return ours


def _read_line(connection: socket.socket) -> bytes:
    """Return what comes up to the end of a line, or of the connection."""
    line = b""
    # A supervisor that closes its door resets the connections it has not let in.
    with suppress(ConnectionResetError):
        while not line.endswith(b"\n") and (data := connection.recv(4096)):
            line += data
    return line
