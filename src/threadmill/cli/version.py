"""`threadmill version`: what is installed, for a bug report."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from threadmill import __version__
from threadmill.cli.console import say
from threadmill.errors import SetupError

_PACKAGES = ("langgraph", "langgraph-checkpoint", "langgraph-sdk", "psycopg")
_TIMEOUT_SECONDS = 10.0


def version() -> None:
    """Print the versions of threadmill and of what it stands on."""
    say(f"threadmill {__version__}")
    for name in _PACKAGES:
        say(f"{name} {_installed(name)}")
    say(f"python {platform.python_version()} ({platform.platform()})")
    say(f"postgresql {_embedded()}")


def _installed(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "is not installed"


def _embedded() -> str:
    """The embedded PostgreSQL's own words, as `18.4 (embedded)`."""
    try:
        from threadmill.drivers.embedded.binaries import find_binaries

        answer = subprocess.run(  # noqa: S603 - the wheel's own program, no shell
            [find_binaries().postgres, "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (ImportError, SetupError, OSError, subprocess.SubprocessError):
        return "is not embedded on this platform; set DATABASE_URI"
    return f"{answer.stdout.split()[-1]} (embedded)"
