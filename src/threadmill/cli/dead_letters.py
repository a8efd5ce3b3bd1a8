"""`threadmill dead-letters`: the runs that were given up, and what becomes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Final, TypeVar
from uuid import UUID

import typer

from threadmill.cli.console import complain, say, say_json, say_table
from threadmill.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    Tenant,
)
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.errors import LimitExceeded, RequestError
from threadmill.logs import redact

if TYPE_CHECKING:
    from threadmill.operations import Operations
    from threadmill.stores.operations import DeadLetter, DeadLetterFilter

T = TypeVar("T")

_PAGE: Final = 1000
_CAUSE_SHOWN: Final = 90

RunId = Annotated[UUID, typer.Argument(metavar="RUN_ID", help="The run.")]
RunIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="RUN_ID", help="The runs.")
]
GraphId = Annotated[
    str | None,
    typer.Option("--graph-id", help="Only runs of this graph.", show_default=False),
]
ThreadId = Annotated[
    UUID | None,
    typer.Option("--thread-id", help="Only runs of this thread.", show_default=False),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=_PAGE, help="How many at most.")
]
Offset = Annotated[int, typer.Option("--offset", min=0, help="How many to skip.")]
Every = Annotated[
    bool, typer.Option("--all", help="Every one; --graph-id and --thread-id select.")
]


def dead_letters_list(
    graph_id: GraphId = None,
    thread_id: ThreadId = None,
    limit: Limit = 20,
    offset: Offset = 0,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List runs that were given up, newest first."""
    from threadmill.stores.operations import DeadLetterFilter

    only = DeadLetterFilter(graph_id=graph_id, thread_id=thread_id)

    async def look(operations: Operations) -> tuple[Sequence[DeadLetter], int]:
        dead_letters = operations.dead_letters
        page = await dead_letters.list(tenant, only, limit=limit, offset=offset)
        return page, await dead_letters.count(tenant, only)

    found, total = _operate(config, look)
    if as_json:
        letters = [letter.as_json() for letter in found]
        say_json({"dead_letters": letters, "total": total})
        return
    if found:
        headings = ("RUN", "GRAPH", "DIED", "ATTEMPTS", "CAUSE")
        say_table(headings, [_row(letter) for letter in found])
    say(f"{len(found)} of {total}")


def dead_letters_show(
    run_id: RunId,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show one of them: its cause, attempts and last checkpoint."""
    letter = _operate(
        config, lambda operations: operations.dead_letters.get(tenant, run_id)
    )
    shown = letter.as_json()
    if as_json:
        say_json(shown)
        return
    shown["cause"] = _cause(letter)
    for name, value in shown.items():
        say(redact(f"{name:<14}{'-' if value is None else value}"))


def dead_letters_redrive(
    run_ids: RunIds = None,
    every: Every = False,
    graph_id: GraphId = None,
    thread_id: ThreadId = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Put runs back at the end of their threads' order.

    One that had got somewhere goes on from there, and is refused if its thread has gone
    on since. Exits with 1 if any was refused; the others are put back all the same.
    """
    from threadmill.stores.operations import DeadLetterFilter

    only = DeadLetterFilter(graph_id=graph_id, thread_id=thread_id)
    if every == bool(run_ids):
        raise typer.BadParameter("name runs, or say --all")
    if not every and (graph_id or thread_id):
        raise typer.BadParameter("--graph-id and --thread-id go with --all")

    async def redrive(operations: Operations) -> dict[UUID, str | None]:
        wanted = run_ids or await _all(operations, tenant, only)
        return await _each(wanted, lambda run_id: operations.redrive(tenant, run_id))

    _tell(_operate(config, redrive), "redriven", as_json=as_json)


def dead_letters_discard(
    run_ids: Annotated[list[UUID], typer.Argument(metavar="RUN_ID", help="The runs.")],
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Forget dead letters; their runs stay as they ended.

    Exits with 1 if a run was no dead letter.
    """

    async def discard(operations: Operations) -> dict[UUID, str | None]:
        dead_letters = operations.dead_letters
        return await _each(run_ids, lambda run_id: dead_letters.discard(tenant, run_id))

    _tell(_operate(config, discard), "discarded", as_json=as_json)


def _operate(config: Config, work: Callable[[Operations], Awaitable[T]]) -> T:
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    return operate(settings_near(config), work)


async def _all(
    operations: Operations, tenant: str, only: DeadLetterFilter
) -> Sequence[UUID]:
    """Oldest first: that was the order of their threads."""
    found: list[UUID] = []
    while page := await operations.dead_letters.list(
        tenant, only, limit=_PAGE, offset=len(found)
    ):
        found += [letter.run_id for letter in page]
    return found[::-1]


async def _each(
    run_ids: Sequence[UUID], work: Callable[[UUID], Awaitable[object]]
) -> dict[UUID, str | None]:
    """Does `work` for each run; why it was refused, or None."""
    refused: dict[UUID, str | None] = {}
    for run_id in dict.fromkeys(run_ids):
        try:
            await work(run_id)
        except (RequestError, LimitExceeded) as error:
            refused[run_id] = str(error)
        else:
            refused[run_id] = None
    return refused


def _tell(outcomes: Mapping[UUID, str | None], done: str, *, as_json: bool) -> None:
    if as_json:
        runs = [
            {"run_id": str(run_id), done: refusal is None, "refusal": refusal}
            for run_id, refusal in outcomes.items()
        ]
        say_json(runs)
    else:
        for run_id, refusal in outcomes.items():
            if refusal is None:
                say(f"{run_id} {done}")
            else:
                complain(f"{run_id}: {refusal}")
    raise typer.Exit(int(any(outcomes.values())))


def _row(letter: DeadLetter) -> Sequence[str]:
    cause = " ".join(_cause(letter).split())
    return (
        str(letter.run_id),
        letter.graph_id,
        f"{letter.died_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}",
        str(letter.attempts),
        cause if len(cause) <= _CAUSE_SHOWN else f"{cause[:_CAUSE_SHOWN]}...",
    )


def _cause(letter: DeadLetter) -> str:
    return f"{letter.cause.get('error')}: {letter.cause.get('message')}"
