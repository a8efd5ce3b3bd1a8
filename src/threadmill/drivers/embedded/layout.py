"""Where everything of one embedded PostgreSQL lies.

::

    DATA_DIR/
      pgdata/            PostgreSQL's own files, of the account that runs it
      binaries-*/        a private copy of the programs, only where one is needed
      password           the superuser's, mode 0600
      server.log         what PostgreSQL says
      supervisor.log     what our supervisor says
      supervisor.json    where the running supervisor listens; absent without one
      start.lock         held by the owner that starts a supervisor
      lock               held by the supervisor as long as it lives
    /tmp/threadmill-*/   short, because a Unix socket's path is
      control            owners connect here
      pg/                PostgreSQL's socket

The locks are the kernel's (flock), so a killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from threadmill.errors import SetupError

# A Unix socket's path has 107 bytes; PostgreSQL appends "/.s.PGSQL.65535" to ours.
SOCKET_FOLDER_BYTES_MAX = 93

# How often a lock that somebody else holds is tried again.
_LOCK_PAUSE_SECONDS = 0.02


def default_data_dir() -> Path:
    """Return the data folder of this user.

    Root's lies outside its home, which the unprivileged account that runs
    PostgreSQL for root may not enter.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():
        return Path(cache, "threadmill", "pg")
    if os.geteuid() == 0:
        return Path("/var/lib/threadmill/pg")
    return Path.home() / ".cache" / "threadmill" / "pg"


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running supervisor can be reached."""

    pid: int
    socket_folder: Path

    @property
    def control(self) -> Path:
        """Return the path of the socket that owners connect to."""
        return self.socket_folder / "control"

    @property
    def postgres_folder(self) -> Path:
        """Return the folder of PostgreSQL's socket."""
        return self.socket_folder / "pg"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one data folder."""

    data_dir: Path

    @property
    def pgdata(self) -> Path:
        """Return PostgreSQL's own data directory."""
        return self.data_dir / "pgdata"

    @property
    def password_file(self) -> Path:
        """Return the file with the superuser's password."""
        return self.data_dir / "password"

    @property
    def server_log(self) -> Path:
        """Return PostgreSQL's log."""
        return self.data_dir / "server.log"

    @property
    def supervisor_log(self) -> Path:
        """Return the supervisor's log."""
        return self.data_dir / "supervisor.log"

    @property
    def supervisor_lock(self) -> Path:
        """Return the lock that is held as long as a supervisor lives."""
        return self.data_dir / "lock"

    @property
    def start_lock(self) -> Path:
        """Return the lock that lets one owner at a time start a supervisor."""
        return self.data_dir / "start.lock"

    @property
    def running_file(self) -> Path:
        """Return the file that tells where the supervisor listens."""
        return self.data_dir / "supervisor.json"

    def create(self) -> None:
        """Make the data folder and its missing parents.

        As root the new folders can be passed through by others (not read), because
        PostgreSQL runs under another account. A folder that exists is never changed.

        Raises:
            SetupError: when the folder cannot be made or is not ours to write.
        """
        mode = 0o711 if os.geteuid() == 0 else 0o700
        missing = [p for p in (self.data_dir, *self.data_dir.parents) if not p.exists()]
        try:
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                folder.chmod(mode)
            writable = os.access(self.data_dir, os.W_OK | os.X_OK)
        except OSError as error:
            raise SetupError(
                f"cannot create the data folder {self.data_dir}: {error.strerror}; "
                "choose another, or set DATABASE_URI"
            ) from None
        if not writable:
            raise SetupError(
                f"cannot write to the data folder {self.data_dir}: it belongs to "
                f"uid {self.data_dir.stat().st_uid}; choose another, or set "
                "DATABASE_URI"
            )

    def running(self) -> Running | None:
        """Return where the supervisor says it listens, or None without one.

        The file of a killed supervisor stays behind, so that this is a hint until a
        connection succeeds.
        """
        try:
            entry = json.loads(self.running_file.read_text())
            return Running(int(entry["pid"]), Path(entry["socket_folder"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def announce(self, running: Running) -> None:
        """Tell later owners where to connect; readers see all of it or nothing."""
        entry = {"pid": running.pid, "socket_folder": str(running.socket_folder)}
        draft = self.running_file.with_suffix(".draft")
        draft.write_text(json.dumps(entry))
        draft.replace(self.running_file)


def create_socket_folder(*, mode: int, usable: Callable[[Path], bool]) -> Path:
    """Make a new folder with a path short enough for sockets, and return it.

    Args:
        mode: the folder's permissions.
        usable: tells whether the account that runs PostgreSQL may enter a folder.

    Raises:
        SetupError: when the system has no such temporary folder.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp is safe in it
        length = len(os.fsencode(parent)) + len("/threadmill-12345678/pg")
        if length <= SOCKET_FOLDER_BYTES_MAX and usable(Path(parent)):
            folder = Path(tempfile.mkdtemp(prefix="threadmill-", dir=parent))
            folder.chmod(mode)
            return folder
    raise SetupError(
        "no temporary folder is open to everybody and has a short path; set TMPDIR "
        "to one"
    )


@contextmanager
def locked(path: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock file `path`.

    Raises:
        SetupError: when another process still holds it after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise SetupError(
                    f"another process holds {path} since {timeout_seconds:.0f} s; "
                    "stop it, or choose another data folder"
                )
            time.sleep(_LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
