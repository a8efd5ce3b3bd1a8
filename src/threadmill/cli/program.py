"""Puts the commands together, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 something must be mended, 2 the command line is wrong, 130 and 143
ended by a second signal.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import typer

from threadmill.cli.console import complain
from threadmill.cli.dead_letters import (
    dead_letters_discard,
    dead_letters_list,
    dead_letters_redrive,
    dead_letters_show,
)
from threadmill.cli.dev import dev
from threadmill.cli.doctor import doctor
from threadmill.cli.history import history_search
from threadmill.cli.migrate import migrate
from threadmill.cli.prune import prune, retention_set, retention_show
from threadmill.cli.queues import queues
from threadmill.cli.serve import serve
from threadmill.cli.storage import storage
from threadmill.cli.version import version
from threadmill.cli.why import why
from threadmill.cli.worker import worker
from threadmill.cli.workers import workers_drain, workers_list
from threadmill.errors import Error

PROGRAM: Final = "threadmill"
Command = Callable[..., Any]
COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "dev": dev,
        "serve": serve,
        "worker": worker,
        "migrate": migrate,
        "doctor": doctor,
        "why": why,
        "queues": queues,
        "dead-letters list": dead_letters_list,
        "dead-letters show": dead_letters_show,
        "dead-letters redrive": dead_letters_redrive,
        "dead-letters discard": dead_letters_discard,
        "workers list": workers_list,
        "workers drain": workers_drain,
        "prune": prune,
        "retention set": retention_set,
        "retention show": retention_show,
        "storage": storage,
        "history search": history_search,
        "version": version,
    }
)
_GROUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dead-letters": "Runs that were given up: list, show, redrive, discard.",
        "workers": "The processes of the fleet: list, drain.",
        "history": "What states held, and when: search.",
        "retention": "How long a tenant's threads are kept: set, show.",
    }
)


def program() -> typer.Typer:
    """The program with all its commands."""
    app = _typer("LangGraph graphs on stateless servers and interchangeable workers.")
    groups: dict[str, typer.Typer] = {}
    for words, command in COMMANDS.items():
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            groups[group] = _typer(_GROUPS[group])
            app.add_typer(groups[group], name=group)
        groups.get(group, app).command(name)(command)
    return app


def _typer(help_: str) -> typer.Typer:
    return typer.Typer(
        help=help_,
        no_args_is_help=True,
        add_completion=False,
        # Local variables hold users' messages and keys.
        pretty_exceptions_enable=False,
        # Help is plain text: it goes into pipes as often as onto terminals.
        rich_markup_mode=None,
    )


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
