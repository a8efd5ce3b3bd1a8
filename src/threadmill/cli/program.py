"""Puts the commands together, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 something must be mended, 2 the command line is wrong, 130 and 143
ended by a second signal.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

import typer

from threadmill.cli.console import complain
from threadmill.cli.dev import dev
from threadmill.cli.doctor import doctor
from threadmill.cli.migrate import migrate
from threadmill.cli.serve import serve
from threadmill.cli.version import version
from threadmill.cli.worker import worker
from threadmill.errors import Error

PROGRAM: Final = "threadmill"
COMMANDS: Final[tuple[Callable[..., Any], ...]] = (
    dev,
    serve,
    worker,
    migrate,
    doctor,
    version,
)


def program() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        help="LangGraph graphs on stateless servers and interchangeable workers.",
        no_args_is_help=True,
        add_completion=False,
        # Local variables hold users' messages and keys.
        pretty_exceptions_enable=False,
        # Help is plain text: it goes into pipes as often as onto terminals.
        rich_markup_mode=None,
    )
    for command in COMMANDS:
        app.command()(command)
    return app


def run(arguments: Sequence[str]) -> int:
    """Carries one command line out and returns its exit code.

    Until a command takes signals over, Ctrl-C ends the process without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        program()(args=list(arguments), prog_name=PROGRAM)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except Error as error:
        complain(str(error))
        return 1
    return 0
