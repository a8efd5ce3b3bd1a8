"""`python -m threadmill.testing.history`: check a deployment, see the verdict.

Exits with 0 when nothing is violated, with 1 when something is, and with 2 when it
could not be told: a log that is none, a database that does not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.configured import away_of
from threadmill.drivers.postgres.configured import database_uri, limits_of
from threadmill.drivers.postgres.database import Database
from threadmill.errors import Error, SetupError
from threadmill.settings import Settings
from threadmill.testing.history.channel import Channel
from threadmill.testing.history.facts import History
from threadmill.testing.history.log import read_logs
from threadmill.testing.history.reading import settle, tenants_of, with_database
from threadmill.testing.history.report import loss_lines, verdict_lines, verdict_table
from threadmill.testing.history.rules import judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks what the arguments name and prints the verdict.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(arguments)
    try:
        history = asyncio.run(_history(args))
    except Error as error:
        print(f"not checked: {error}", file=sys.stderr)  # noqa: T201
        return 2
    findings = judge(history)
    console = Console(soft_wrap=True)
    console.print(verdict_table(findings))
    for line in [*loss_lines(history), *verdict_lines(findings)]:
        console.print(line, markup=False, highlight=False)
    return 1 if any(found.violations for found in findings) else 0


async def _history(args: argparse.Namespace) -> History:
    logged = read_logs(args.log, clock_skew_seconds=args.clock_skew)
    if args.tenant:
        logged = _only(logged, frozenset(args.tenant))
    if not (logged.messages or logged.reads or logged.readers):
        msg = "the logs name no thread of these tenants: there is nothing to check"
        raise SetupError(msg)
    settings = Settings.from_env()
    uri = args.database_uri or database_uri(settings)
    database = Database(
        uri,
        name="threadmill history",
        limits=limits_of(settings),
        prepare=settings.prepared_statements,
    )
    away = away_of(settings, {})
    await database.open()
    try:
        if away is not None:
            await away.store.open()
        await settle(database, tenants_of(logged), seconds=args.settle)
        return await with_database(
            logged,
            database,
            Channel(args.channel, args.path, args.results),
            codec=Codec(),
            away=away,
        )
    finally:
        if away is not None:
            await away.store.close()
        await database.close()


def _only(history: History, tenants: frozenset[str]) -> History:
    return replace(
        history,
        messages=tuple(m for m in history.messages if m.tenant in tenants),
        reads=tuple(r for r in history.reads if r.tenant in tenants),
        readers=tuple(r for r in history.readers if r.tenant in tenants),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m threadmill.testing.history",
        description="Checks what clients logged against the database.",
    )
    add = parser.add_argument
    add(
        "--log",
        type=Path,
        action="append",
        required=True,
        help="a log; may be given often",
    )
    add("--database-uri", help="the database; by default DATABASE_URI")
    add("--tenant", action="append", help="only this one; may be given often")
    add("--channel", default="messages", help="the channel that holds the messages")
    add("--path", help="leads from an item of the channel to its id, such as kwargs.id")
    add("--results", help="a channel of marks, one of each task")
    add("--settle", type=float, default=60, help="seconds to wait for open runs")
    add("--clock-skew", type=float, default=0, help="seconds between the logs' clocks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
