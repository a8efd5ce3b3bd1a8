"""The process that owns the embedded PostgreSQL: ``python -m <this> DATA_DIR``.

It lives as long as somebody owns the server. An owner is a connection to the control
socket; the first one comes as standard input, so that there is no moment without an
owner. Each gets one line of JSON, then silence::

    {"port": 54321, "socket_folder": "/tmp/threadmill-x/pg", "superuser": "postgres"}
    {"error": "what is wrong and what to do"}

and leaves by closing its end. When the connection of a last owner closes, the server
is stopped before its supervisor's end closes too.

It is a single thread without asyncio, and imports the standard library only: that
makes it start in some 50 ms, and the kernel sends a death signal when the thread that
started a program ends.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from threadmill.drivers.embedded.account import Account, choose_account
from threadmill.drivers.embedded.binaries import runnable_binaries
from threadmill.drivers.embedded.cluster import SUPERUSER, Cluster, check_version
from threadmill.drivers.embedded.layout import (
    Layout,
    Running,
    create_socket_folder,
    locked,
)
from threadmill.drivers.embedded.roster import Owner, Roster
from threadmill.errors import SetupError

# A predecessor that is still stopping its server holds the lock this long at most.
_LOCK_TIMEOUT_SECONDS = 45.0

# A server that dies again and again is not worth restarting.
_RESTARTS_MAX = 5
_RESTART_WINDOW_SECONDS = 60.0

_BACKLOG = 64


class Supervisor:
    """Starts the server, keeps it for its owners, stops it after the last.

    Args:
        layout: the data folder.
        fsync: as in `Cluster`.
        settings: as in `Cluster`.
    """

    def __init__(
        self, layout: Layout, *, fsync: bool, settings: Mapping[str, str]
    ) -> None:
        self._layout = layout
        self._fsync = fsync
        self._settings = settings
        self._selector = selectors.DefaultSelector()
        self._roster = Roster(self._selector)
        self._terminated = False
        self._restarted_at: list[float] = []

    def run(self, first_owner: socket.socket) -> None:
        """Serve until the last owner is gone or SIGTERM arrives.

        Errors that a user can mend go to the owners. Others go to the log, and the
        owners see the connection end without an answer.
        """
        self._roster.add(first_owner)
        try:
            with (
                locked(
                    self._layout.supervisor_lock,
                    timeout_seconds=_LOCK_TIMEOUT_SECONDS,
                ),
                self._signals(),
            ):
                self._run_locked()
        except SetupError as error:
            _log(str(error))
            self._roster.tell_all({"error": str(error)})
        except Exception:  # noqa: BLE001 - the root of this process
            _log(traceback.format_exc())
        finally:
            self._roster.close()

    def _run_locked(self) -> None:
        self._remove_leftovers()
        check_version(self._layout)
        account = choose_account(self._layout.data_dir, self._layout.pgdata)
        binaries = runnable_binaries(account, self._layout.data_dir)
        with _socket_folders(account) as running:
            cluster = Cluster(
                self._layout,
                account,
                binaries,
                socket_folder=running.postgres_folder,
                fsync=self._fsync,
                settings=self._settings,
            )
            try:
                with self._listening(running) as listener:
                    self._start(cluster, running)
                    self._serve(listener, cluster)
                # The door is shut: an owner that comes now starts a successor, which
                # waits for the lock.
            finally:
                cluster.stop()
        _log("stopped")

    def _start(self, cluster: Cluster, running: Running) -> None:
        cluster.initialize()
        cluster.start()
        _log(f"server ready on port {cluster.port}")
        self._roster.tell_all(
            {
                "port": cluster.port,
                "socket_folder": str(running.postgres_folder),
                "superuser": SUPERUSER,
            }
        )

    def _serve(self, listener: socket.socket, cluster: Cluster) -> None:
        """Handle owners and the server's death until no owner is left."""
        while not self._terminated:
            if not self._roster:
                # Whoever waits at the door is let in before the decision.
                self._accept(listener)
            if not self._roster:
                return
            if not cluster.running:
                self._restart(cluster)
            for key, _ in self._selector.select():
                if isinstance(key.data, Owner):
                    self._roster.look_at(key.data)
                elif key.fileobj is listener:
                    self._accept(listener)
                else:
                    self._read_signals(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                self._roster.add(connection)

    def _restart(self, cluster: Cluster) -> None:
        now = time.monotonic()
        recent = [at for at in self._restarted_at if at > now - _RESTART_WINDOW_SECONDS]
        if len(recent) >= _RESTARTS_MAX:
            raise SetupError(
                f"the embedded postgresql died {len(recent) + 1} times within "
                f"{_RESTART_WINDOW_SECONDS:.0f} s; see {self._layout.server_log}"
            )
        self._restarted_at = [*recent, now]
        _log("the server ended by itself; starting it again")
        cluster.start()

    @contextmanager
    def _listening(self, running: Running) -> Iterator[socket.socket]:
        """Listen for owners, and say where."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.settimeout(0)
            listener.bind(str(running.control))
            listener.listen(_BACKLOG)
            self._selector.register(listener, selectors.EVENT_READ)
            self._layout.announce(running)
            try:
                yield listener
            finally:
                self._selector.unregister(listener)
                self._layout.running_file.unlink(missing_ok=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Wake the loop on SIGTERM, and on SIGCHLD for the server's death."""
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.settimeout(0)
            writer.settimeout(0)
            signal.set_wakeup_fd(writer.fileno())
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, lambda *_: None)
            self._selector.register(reader, selectors.EVENT_READ)
            try:
                yield
            finally:
                signal.set_wakeup_fd(-1)

    def _read_signals(self, reader: object) -> None:
        if isinstance(reader, socket.socket) and signal.SIGTERM in reader.recv(1024):
            _log("SIGTERM")
            self._terminated = True

    def _remove_leftovers(self) -> None:
        """Remove the sockets of a supervisor that was killed."""
        leftover = self._layout.running()
        if leftover is not None:
            shutil.rmtree(leftover.socket_folder, ignore_errors=True)
            self._layout.running_file.unlink(missing_ok=True)


@contextmanager
def _socket_folders(account: Account) -> Iterator[Running]:
    """Make the folders of the sockets: ours is not writable for the server."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    folder = create_socket_folder(mode=mode, usable=account.can_enter)
    running = Running(os.getpid(), folder)
    try:
        running.postgres_folder.mkdir(mode=0o700)
        account.own(running.postgres_folder)
        yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _log(text: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    sys.stderr.write(f"{now} UTC [{os.getpid()}] {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Become a process of its own and supervise; standard input is the first owner."""
    parser = argparse.ArgumentParser(prog="threadmill-embedded-postgresql")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--no-fsync", action="store_true")
    parser.add_argument("-c", dest="settings", action="append", default=[])
    options = parser.parse_args(arguments)

    # The starter waits for this exit, so that it never has a child to look after.
    if os.fork() != 0:
        os._exit(0)
    first_owner = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.umask(0o077)
    os.chdir("/")
    Supervisor(
        Layout(options.data_dir),
        fsync=not options.no_fsync,
        settings=dict(setting.split("=", 1) for setting in options.settings),
    ).run(first_owner)


if __name__ == "__main__":
    main()
