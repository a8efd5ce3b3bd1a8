"""The account that runs PostgreSQL, which refuses to run as root.

What is promised: an ordinary user runs it as themselves. Root runs it as the owner of
the data, and new data belongs to `nobody`. Where `nobody` may not enter the data
folder, which stays as closed as it is, PostgreSQL runs in a user namespace of its own
instead: root there is an ordinary user without any capability.

Every program is started through `Account.spawn`, which also asks the kernel to signal
the program when its parent dies. The parent must be single-threaded, as the supervisor
is: the signal is sent when the *thread* that started the program ends.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from threadmill.errors import SetupError

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1

# What a program needs to find its libraries; the rest may hold keys.
_ENVIRONMENT_KEPT = ("PATH", "LD_LIBRARY_PATH")

# What root becomes inside a namespace: `nobody`, where programs ask for a name.
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs PostgreSQL: a uid and gid, or this process's own in a namespace."""

    uid: int
    gid: int
    namespaced: bool = False

    def spawn(
        self,
        arguments: Sequence[str | Path],
        *,
        death_signal: signal.Signals = signal.SIGKILL,
        environment: dict[str, str] | None = None,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a program that gets `death_signal` when this process dies.

        The program sees next to nothing of our environment.

        Raises:
            subprocess.SubprocessError: when the system refuses a user namespace.
            OSError: when the program cannot be run.
        """
        kept = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT_KEPT}
        foreign = not self.namespaced and self.uid != os.geteuid()
        return subprocess.Popen(  # noqa: S603 - our own programs, no shell
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**kept, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            user=self.uid if foreign else None,
            group=self.gid if foreign else None,
            extra_groups=[] if foreign else None,
            # Runs after the change of uid, which would forget the death signal.
            preexec_fn=self._before_exec(death_signal),  # noqa: PLW1509 - one thread
        )

    def can_run(self, program: Path) -> bool:
        """Return whether this account may execute `program` where it lies."""
        return self._in_child(lambda: os.access(program, os.R_OK | os.X_OK))

    def can_enter(self, folder: Path) -> bool:
        """Return whether this account may pass through `folder` and its parents."""
        return self._in_child(lambda: os.access(folder, os.X_OK))

    def own(self, path: Path) -> None:
        """Hand a file or folder that this process made over to the account."""
        if not self.namespaced and self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def _in_child(self, question: Callable[[], bool]) -> bool:
        """Ask in a forked process that has become this account."""
        child = os.fork()
        if child == 0:
            try:
                self._become()
                os._exit(0 if question() else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        return status == 0

    def _become(self) -> None:
        if self.namespaced:
            _enter_namespace(self.uid, self.gid)
        elif self.uid != os.geteuid():
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def _before_exec(self, death_signal: signal.Signals) -> Callable[[], None] | None:
        if sys.platform != "linux":
            return None
        parent = os.getpid()
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def prepare() -> None:
            if self.namespaced:
                _enter_namespace(self.uid, self.gid)
            prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            # The parent may have died before the line above.
            if os.getppid() != parent:
                os._exit(1)

        return prepare


def choose_account(data_dir: Path, pgdata: Path) -> Account:
    """Return the account that runs PostgreSQL on `pgdata`, which may not exist yet.

    Raises:
        SetupError: when the data belongs to another user, or when root has no
            unprivileged account that may enter `data_dir`.
    """
    owner = pgdata.stat() if pgdata.exists() else None
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        if owner is not None and owner.st_uid != uid:
            raise SetupError(
                f"the data in {pgdata} belongs to uid {owner.st_uid}, not to you "
                f"(uid {uid}); choose another data folder"
            )
        return Account(uid, gid)
    # What root made in a namespace is root's own, and stays with it.
    candidates = [_nobody(), Account(uid, gid, namespaced=True)]
    if owner is not None:
        candidates = [Account(owner.st_uid, owner.st_gid, namespaced=not owner.st_uid)]
    for candidate in candidates:
        if candidate.can_enter(data_dir):
            return candidate
    raise SetupError(
        f"postgresql does not run as root: {data_dir} is closed to uid "
        f"{candidates[0].uid or _NOBODY}, and the system allows no user namespaces; "
        "choose a data folder below an open one such as /var/lib, or set DATABASE_URI"
    )


def initdb_account(account: Account) -> Account:
    """Return the account for `initdb`, which insists on a user name.

    A uid without a passwd entry, as containers often have, gets one in a namespace
    where it is `nobody`; the files it makes keep their owner.
    """
    if account.namespaced or sys.platform != "linux":
        return account
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        pass
    else:
        return account
    return Account(account.uid, account.gid, namespaced=account.uid == os.geteuid())


def _nobody() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(_NOBODY, _NOBODY)
    return Account(entry.pw_uid, entry.pw_gid)


def _enter_namespace(uid: int, gid: int) -> None:
    """Move this process into a user namespace where it is `nobody`.

    Raises:
        OSError: when the system allows no user namespaces.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {gid} 1")
