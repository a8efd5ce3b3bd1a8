"""`threadmill history search`: which checkpoints held what, and when."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from threadmill.cli.console import say, say_json, say_table
from threadmill.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    Tenant,
)
from threadmill.domain.history import LIMIT_MAX, SCAN_MAX
from threadmill.domain.tenant import DEFAULT_TENANT

if TYPE_CHECKING:
    from threadmill.domain.history import Moment, ValueMatch

_SHOWN = 60


def _text(name: str, help_: str) -> Any:
    return typer.Option(name, help=help_, show_default=False)


Graph = Annotated[str | None, _text("--graph", "Only threads of this graph.")]
ThreadIds = Annotated[
    list[UUID] | None, _text("--thread", "Only this thread; may be said again.")
]
RunId = Annotated[UUID | None, _text("--run", "Only checkpoints of this run.")]
Metadata = Annotated[
    list[str] | None,
    _text("--metadata", "KEY=VALUE of the thread's metadata; may be said again."),
]
Node = Annotated[str | None, _text("--node", "Only what this node's writes led to.")]
Since = Annotated[
    datetime | None, _text("--since", "Committed at this moment or later, in UTC.")
]
Until = Annotated[
    datetime | None, _text("--until", "Committed before this moment, in UTC.")
]
Failed = Annotated[bool, typer.Option("--failed", help="Only where something failed.")]
ErrorText = Annotated[
    str | None, _text("--error", "Only where it failed with an error like this.")
]
From = Annotated[
    Literal["input", "loop", "update", "fork"] | None,
    _text("--source", "Only checkpoints of this source."),
]
Path = Annotated[
    str | None, _text("--path", "A path in the state, such as order.status.")
]
Equals = Annotated[
    str | None, _text("--equals", "What it leads to, as JSON or as a text.")
]
Changed = Annotated[
    bool, typer.Option("--changed", help="Only where it was another value before.")
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=LIMIT_MAX, help="How many at most.")
]
Scan = Annotated[
    int,
    typer.Option(
        "--scan", min=1, max=SCAN_MAX, help="How much may be looked at for a page."
    ),
]
Cursor = Annotated[str | None, _text("--cursor", "Where the page before has ended.")]
ReadStates = Annotated[
    bool, typer.Option("--read-states", help="Read the states; use no index.")
]


def history_search(
    *,
    graph: Graph = None,
    thread: ThreadIds = None,
    run: RunId = None,
    metadata: Metadata = None,
    node: Node = None,
    since: Since = None,
    until: Until = None,
    failed: Failed = False,
    error: ErrorText = None,
    source: From = None,
    path: Path = None,
    equals: Equals = None,
    changed: Changed = False,
    limit: Limit = 20,
    scan: Scan = 1000,
    cursor: Cursor = None,
    read_states: ReadStates = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Find checkpoints by what they hold, and how they came about.

    langgraph.json says which paths an index leads to; without it, states are read. The
    last line says where to go on, if there may be more.
    """
    from threadmill.cli.database import search_histories
    from threadmill.cli.project import settings_near
    from threadmill.domain.history import HistoryQuery

    if (equals is not None or changed) and path is None:
        raise typer.BadParameter("--equals and --changed go with --path")
    query = HistoryQuery(
        metadata=_pairs(metadata),
        thread_ids=thread,
        graph_id=graph,
        since=_utc(since),
        until=_utc(until),
        node=node,
        run_id=run,
        failed=failed,
        error=error,
        source=source,
        value=_value(path, equals, changed=changed),
    )
    page = search_histories(
        settings_near(config),
        config,
        tenant,
        query,
        cursor=cursor,
        limit=limit,
        scan=scan,
        read_states=read_states,
    )
    if as_json:
        say_json(page.as_json())
        return
    if page.found.moments:
        headings = ("COMMITTED", "THREAD", "CHECKPOINT", "NODES", "VALUE")
        say_table(headings, [_row(moment) for moment in page.found.moments])
    say(f"{len(page.found.moments)} found, {page.found.scanned} looked at")
    if page.cursor is not None:
        say(f"there may be more: --cursor {page.cursor}")


def _row(moment: Moment) -> tuple[str, ...]:
    shown = moment.value or moment.error or ""
    return (
        f"{moment.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}",
        str(moment.thread_id),
        moment.checkpoint_id,
        ",".join(moment.nodes) or (moment.source or ""),
        " ".join(shown.split())[:_SHOWN],
    )


def _value(path: str | None, equals: str | None, *, changed: bool) -> ValueMatch | None:
    from threadmill.domain.history import ValueMatch
    from threadmill.domain.paths import is_path, scalar

    if path is None:
        return None
    if not is_path(path):
        raise typer.BadParameter(f"--path {path!r} is no path")
    if equals is None:
        return ValueMatch(path=path, changed=changed)
    operand = scalar(_json_or_text(equals))
    if operand is None:
        raise typer.BadParameter("--equals must be a text, a number, true or null")
    return ValueMatch(path=path, comparison="equals", operand=operand, changed=changed)


def _pairs(pairs: list[str] | None) -> dict[str, Any] | None:
    found = {}
    for pair in pairs or ():
        key, equal, value = pair.partition("=")
        if not key or not equal:
            raise typer.BadParameter(f"--metadata {pair!r} is not KEY=VALUE")
        found[key] = _json_or_text(value)
    return found or None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=at.tzinfo or UTC)
