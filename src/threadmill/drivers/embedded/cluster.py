"""One PostgreSQL data directory and the server on it, seen from its supervisor.

What is promised:

* `initialize` makes the data directory completely or not at all: `initdb` works on a
  draft that gets its name when it is finished, so a crash in the middle costs nothing.
* `start` returns when the server answers. It clears up after a server that was killed:
  one that still runs is stopped first; a process that merely got the old number is
  left alone.
* `stop` always ends, by ever harder means.

Only the process that holds the supervisor's lock may use a cluster.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from threadmill.drivers.embedded.account import Account, initdb_account
from threadmill.drivers.embedded.binaries import MAJOR_VERSION, Binaries
from threadmill.drivers.embedded.layout import Layout
from threadmill.errors import SetupError

SUPERUSER = "postgres"

_INITDB_TIMEOUT_SECONDS = 120.0
# Crash recovery replays the log since the last checkpoint, at most some GB.
_READY_TIMEOUT_SECONDS = 300.0
_START_ATTEMPTS_MAX = 5
_START_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 0.005
_LOG_BYTES_MAX = 10_000_000

# A fast shutdown writes a checkpoint; an immediate one leaves that to the next start.
_STOP_STEPS = (
    (signal.SIGINT, 30.0),
    (signal.SIGQUIT, 5.0),
    (signal.SIGKILL, 5.0),
)


def check_version(layout: Layout) -> None:
    """Refuse data of another major version, before anything touches it.

    Raises:
        SetupError: naming both versions and the ways out.
    """
    if not layout.pgdata.exists():
        return
    try:
        found = (layout.pgdata / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        found = "none"
    if found != str(MAJOR_VERSION):
        raise SetupError(
            f"the data in {layout.pgdata} is of postgresql version {found}, and the "
            f"embedded one is {MAJOR_VERSION}; move the folder away to start afresh, "
            "dump it with its old version, or set DATABASE_URI"
        )


class Cluster:
    """A data directory with its server process, if one runs.

    Args:
        layout: where things lie.
        account: who runs the programs.
        binaries: programs that this account can run.
        socket_folder: where the server's Unix socket goes.
        fsync: False gives up what a crash of the operating system would take.
        settings: server settings for this start, by PostgreSQL's names.
    """

    def __init__(
        self,
        layout: Layout,
        account: Account,
        binaries: Binaries,
        *,
        socket_folder: Path,
        fsync: bool,
        settings: Mapping[str, str],
    ) -> None:
        self._layout = layout
        self._account = account
        self._binaries = binaries
        self._socket_folder = socket_folder
        self._fsync = fsync
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def running(self) -> bool:
        """Return whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    def initialize(self) -> None:
        """Make the data directory if there is none.

        Raises:
            SetupError: when `initdb` fails; the message holds its complaint.
        """
        for leftover in self._layout.data_dir.glob("draft-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self._layout.pgdata.exists():
            return
        # A name of its own: what a crash leaves behind may still be written to.
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=self._layout.data_dir))
        try:
            self._account.own(draft)
            password = secrets.token_urlsafe(32)
            self._run_initdb(draft, password)
            # The password first: data without one could never be entered again.
            _write_private(self._layout.password_file, password)
            (draft / "pgdata").rename(self._layout.pgdata)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def start(self) -> None:
        """Start the server and return when it accepts connections.

        The first start chooses a free port; later ones keep it, since clients know it.

        Raises:
            SetupError: when the server does not start, with its last words.
        """
        choose_port = self.port == 0
        for attempt in range(1, _START_ATTEMPTS_MAX + 1):
            if choose_port:
                self.port = _free_port()
            if self._try_start():
                return
            # Backends of a killed server take a moment to notice, and a port may be
            # taken between being chosen and being used.
            if attempt < _START_ATTEMPTS_MAX:
                time.sleep(_START_PAUSE_SECONDS * attempt)
        raise SetupError(
            f"the embedded postgresql does not start: {self._last_words()} "
            f"(see {self._layout.server_log})"
        )

    def stop(self) -> None:
        """Stop the server, harder the longer it takes; returns when it is gone."""
        if self._process is None:
            return
        for step, seconds in _STOP_STEPS:
            if self._process.poll() is None:
                self._process.send_signal(step)
            try:
                self._process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                continue
            return

    def _run_initdb(self, draft: Path, password: str) -> None:
        """Make `draft`/pgdata with that password for the superuser."""
        password_file = draft / "password"
        _write_private(password_file, password)
        self._account.own(password_file)
        try:
            process = initdb_account(self._account).spawn(
                self._initdb_command(draft / "pgdata", password_file),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except subprocess.SubprocessError:
            raise SetupError(
                f"initdb needs a user name, but uid {self._account.uid} has none and "
                "the system allows no user namespaces; add the uid to /etc/passwd, or "
                "set DATABASE_URI"
            ) from None
        with process:
            try:
                output, _ = process.communicate(timeout=_INITDB_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise SetupError(
                    f"initdb did not finish within {_INITDB_TIMEOUT_SECONDS:.0f} s in "
                    f"{draft}; is the disk very slow?"
                ) from None
        if process.returncode != 0:
            raise SetupError(f"initdb failed: {_complaint(output)}")

    def _initdb_command(self, pgdata: Path, password_file: Path) -> list[str | Path]:
        return [
            self._binaries.initdb,
            f"--pgdata={pgdata}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same order and case rules on every system, for ever.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            # Stretching protects passwords that can be guessed. Ours has 256 random
            # bits, and 4096 rounds would cost every connection milliseconds.
            "--set=scram_iterations=1",
            *([] if self._fsync else ["--no-sync"]),
        ]

    def _try_start(self) -> bool:
        """Start the server; return False if it ended before it was ready."""
        status_file = self._layout.pgdata / "postmaster.pid"
        leftover = _read_pid(status_file)
        environment: dict[str, str] = {}
        if leftover is not None:
            self._end_orphan(leftover)
            # Says "this number is not the old server": the check of the shared memory
            # still finds backends that survived it.
            environment["PG_GRANDPARENT_PID"] = str(leftover)
        with _open_log(self._layout.server_log) as log:
            self._process = self._account.spawn(
                self._command(),
                # A fast shutdown when the supervisor dies.
                death_signal=signal.SIGINT,
                environment=environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
        while not _is_ready(status_file, self._process.pid):
            if self._process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.stop()
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._fsync:
            # Not synchronous_commit: a killed server must still keep every commit.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        command: list[str | Path] = [
            self._binaries.postgres,
            "-D",
            self._layout.pgdata,
        ]
        for name, value in (settings | dict(self._settings)).items():
            command += ["-c", f"{name}={value}"]
        return command

    def _end_orphan(self, pid: int) -> None:
        """Stop a server of this data directory that lost its supervisor."""
        for step, seconds in _STOP_STEPS:
            deadline = time.monotonic() + seconds
            if not _is_server(pid, self._layout.pgdata):
                return
            with suppress(ProcessLookupError):
                os.kill(pid, step)
            while _is_server(pid, self._layout.pgdata) and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)

    def _last_words(self) -> str:
        try:
            return _complaint(self._layout.server_log.read_bytes()[-4000:])
        except OSError as error:
            return str(error)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _read_pid(status_file: Path) -> int | None:
    try:
        return int(status_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_ready(status_file: Path, pid: int) -> bool:
    """Return whether the server `pid` wrote that it accepts connections."""
    try:
        lines = status_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _is_server(pid: int, pgdata: Path) -> bool:
    """Return whether process `pid` is a living server on `pgdata`."""
    try:
        if sys.platform == "linux":
            # Empty for a zombie, and unreadable only for a stranger's process.
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        else:
            command = subprocess.run(  # noqa: S603 - the system's own ps
                ["/bin/ps", "-o", "command=", "-p", str(pid)],
                capture_output=True,
                check=False,
                timeout=10.0,
            ).stdout.split()
    except OSError:
        return False
    return os.fsencode(pgdata) in command and command[0].endswith(b"postgres")


def _complaint(output: bytes) -> str:
    """Return the last line that names a fault, or the last line."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    faults = [line for line in lines if "FATAL:" in line or "error:" in line]
    return (faults or lines or ["no output"])[-1]
